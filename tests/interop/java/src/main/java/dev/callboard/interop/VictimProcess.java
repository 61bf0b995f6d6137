package dev.callboard.interop;

import com.google.protobuf.util.Durations;
import dev.callboard.v1.LeaseState;
import dev.callboard.v1.RegisterRequest;
import dev.callboard.v1.RegistryServiceGrpc;
import java.io.IOException;
import java.time.Duration;
import java.time.Instant;
import java.util.concurrent.TimeUnit;

/** Child process that a step kills. It registers, prints a line once its lease is held, and sends heartbeats until then. */
final class VictimProcess {
    static final String SERVICE = "mortal";
    static final String ID = "victim";
    static final Duration GRACE = Duration.ofMillis(300);

    private final Process process;

    private VictimProcess(Process process) {
        this.process = process;
    }

    /** Starts the process, and returns once its first heartbeat has been answered. */
    static VictimProcess start(Connections connections) throws Exception {
        String jvm = ProcessHandle.current().info().command().orElseThrow();
        String classpath = System.getProperty("java.class.path");
        var command = new ProcessBuilder(
                jvm, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classpath,
                Interop.class.getName(), "victim", connections.address());
        Process process = command.redirectError(ProcessBuilder.Redirect.INHERIT).start();
        Check.same("held", Server.firstLine(process, Duration.ofSeconds(20)), "the line that the child process printed");
        return new VictimProcess(process);
    }

    /** Sends SIGKILL, and returns the time of it by {@link System#nanoTime}. */
    long kill() throws InterruptedException {
        long at = System.nanoTime();
        process.destroyForcibly();
        Check.that(process.waitFor(5, TimeUnit.SECONDS), "the child process is running after SIGKILL");
        return at;
    }

    /** Entry point of the child process. */
    static void run(Connections connections) throws InterruptedException, IOException {
        var channel = connections.open();
        var request = RegisterRequest.newBuilder()
                .setService(SERVICE)
                .setId(ID)
                .setBootId("victim-" + Instant.now().toEpochMilli())
                .addAddresses(StepSupport.address(9009))
                .setTtl(Durations.fromSeconds(15))
                .setDisconnectGrace(Durations.fromMillis(GRACE.toMillis()))
                .build();
        var lease = RegistryServiceGrpc.newBlockingStub(channel).register(request).getLeaseId();
        var heartbeats = new Heartbeats(channel);
        Check.same(LeaseState.LEASE_STATE_HELD, heartbeats.report(lease).getState(), "the lease of the child process");
        heartbeats.start();
        System.out.println("held");
        // Stdin ends when the parent exits; then no step will kill this process.
        while (System.in.read() != -1) {
            continue;
        }
        System.exit(1);
    }
}
