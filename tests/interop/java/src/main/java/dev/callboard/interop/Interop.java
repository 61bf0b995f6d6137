package dev.callboard.interop;

/**
 * Tests a real callboard server with grpc-java and generated stubs.
 *
 * <p>{@code Interop} runs the steps of ../README.md with the server program that CALLBOARD names. {@code Interop victim
 * ADDRESS} is the child process that a step kills. {@code Interop follow TARGET SERVICE} watches a service, for the suite
 * replicas.
 */
public final class Interop {
    private int passed;
    private int failed;

    @FunctionalInterface
    interface Step {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length == 2 && arguments[0].equals("victim")) {
            VictimProcess.run(new Connections(arguments[1]));
            return;
        }
        if (arguments.length == 3 && arguments[0].equals("follow")) {
            Follower.run(new Connections(arguments[1]), arguments[2]);
            return;
        }
        var interop = new Interop();
        interop.run(Server.start(System.getenv("CALLBOARD")));
        System.out.printf("%d passed, %d failed%n", interop.passed, interop.failed);
        System.exit(interop.failed == 0 ? 0 : 1);
    }

    private void run(Server server) throws Exception {
        var connections = new Connections(server.grpc);
        var lifecycle = new Lifecycle(connections);
        step("registers three instances", lifecycle::registers);
        step("renews all leases with one message", lifecycle::heartbeats);
        step("watches from a second connection", lifecycle::watches);
        step("sees an update of weight and tags", lifecycle::seesChange);
        step("sees an operator's drain and its end", lifecycle::seesDrain);
        step("sees a deregistration", lifecycle::seesDeregistration);
        step("sees the removal of a killed process", lifecycle::seesKill);
        step("sees the expiry of a lease in time", lifecycle::seesExpiry);
        step("resumes a watch with its token", lifecycle::resumes);
        var edgeCases = new EdgeCases(connections, lifecycle.heartbeats);
        step("gets errors for a malformed resume token and invalid fields", edgeCases::errors);
        step("gets a reset for the token of another selector", edgeCases::reset);
        step("gets UNKNOWN and REMOVED for leases that are not held", edgeCases::leases);
        step("gets an error for an id in use, then replaces its instance", edgeCases::secondBoot);
        step("watches with a filter", edgeCases::filter);
        step("watches a service before its first registration", edgeCases::watchBeforeRegistration);
        step("checks health", edgeCases::health);
        step("lists the services by reflection", edgeCases::reflection);
        step("matches values of headers as the registry does", HeaderPatterns::match);
        step("receives shutdown notices, and the server exits with code 0", () -> lifecycle.shutdown(server));
    }

    private void step(String name, Step step) {
        long began = System.nanoTime();
        try {
            step.run();
            passed++;
            System.out.printf("ok      %s (%d ms)%n", name, (System.nanoTime() - began) / 1_000_000);
        } catch (Exception | AssertionError error) {
            failed++;
            System.out.printf("FAILED  %s: %s%n", name, error);
            error.printStackTrace();
        }
    }
}
