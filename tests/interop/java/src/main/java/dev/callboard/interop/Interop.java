package dev.callboard.interop;

/**
 * A client that nobody at Callboard wrote: stock grpc-java, stubs generated from the contract, a server of its own.
 *
 * <p>{@code Interop} runs the steps of ../README.md against the program that CALLBOARD names; {@code Interop victim
 * ADDRESS} is the process that gets killed in one of them.
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
            Victim.run(new Connections(arguments[1]));
            return;
        }
        var interop = new Interop();
        interop.run(Server.start(System.getenv("CALLBOARD")));
        System.out.printf("%d passed, %d failed%n", interop.passed, interop.failed);
        System.exit(interop.failed == 0 ? 0 : 1);
    }

    private void run(Server server) throws Exception {
        var connections = new Connections(server.grpc);
        var life = new Life(connections);
        step("registers three instances", life::registers);
        step("heartbeats all three in one message", life::heartbeats);
        step("watches: a snapshot of three, synced", life::watches);
        step("sees a change", life::seesChange);
        step("sees a drain and its end", life::seesDrain);
        step("sees a deregistration", life::seesDeregistration);
        step("sees a kill", life::seesKill);
        step("sees an expiry", life::seesExpiry);
        step("resumes with its token", life::resumes);
        var rules = new Rules(connections, life.heartbeats);
        step("refuses a malformed token and bad fields", rules::refusals);
        step("resets where the token is of another selector", rules::reset);
        step("reports unknown and removed leases", rules::leases);
        step("refuses a second boot, unless it replaces", rules::secondBoot);
        step("filters a watch", rules::filter);
        step("watches before registration", rules::watchBeforeRegistration);
        step("checks health", rules::health);
        step("reads reflection", rules::reflection);
        step("shuts down in order", () -> life.shutdown(server));
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
