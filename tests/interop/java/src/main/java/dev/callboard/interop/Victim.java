package dev.callboard.interop;

import com.google.protobuf.util.Durations;
import dev.callboard.v1.LeaseState;
import dev.callboard.v1.RegisterRequest;
import dev.callboard.v1.RegistryServiceGrpc;
import java.io.IOException;
import java.time.Duration;
import java.time.Instant;
import java.util.concurrent.TimeUnit;

/** A process that registers, says when its lease holds, and then only waits to be killed. */
final class Victim {
    static final String SERVICE = "mortal";
    static final String ID = "victim";
    static final Duration GRACE = Duration.ofMillis(300);

    private final Process process;

    private Victim(Process process) {
        this.process = process;
    }

    /** Starts one, and returns once its heartbeat has been answered. */
    static Victim start(Connections connections) throws Exception {
        String jvm = ProcessHandle.current().info().command().orElseThrow();
        String classpath = System.getProperty("java.class.path");
        var command = new ProcessBuilder(
                jvm, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classpath,
                Interop.class.getName(), "victim", connections.address());
        Process process = command.redirectError(ProcessBuilder.Redirect.INHERIT).start();
        Check.same("held", Server.firstLine(process, Duration.ofSeconds(20)), "what the victim said");
        return new Victim(process);
    }

    /** SIGKILL. Returns when it was sent, by {@link System#nanoTime}. */
    long kill() throws InterruptedException {
        long at = System.nanoTime();
        process.destroyForcibly();
        Check.that(process.waitFor(5, TimeUnit.SECONDS), "the victim survived SIGKILL");
        return at;
    }

    /** The victim's own main. */
    static void run(Connections connections) throws InterruptedException, IOException {
        var channel = connections.open();
        var request = RegisterRequest.newBuilder()
                .setService(SERVICE)
                .setId(ID)
                .setBootId("victim-" + Instant.now().toEpochMilli())
                .addAddresses(Steps.address(9009))
                .setTtl(Durations.fromSeconds(15))
                .setDisconnectGrace(Durations.fromMillis(GRACE.toMillis()))
                .build();
        var lease = RegistryServiceGrpc.newBlockingStub(channel).register(request).getLeaseId();
        var heartbeats = new Heartbeats(channel);
        Check.same(LeaseState.LEASE_STATE_HELD, heartbeats.report(lease).getState(), "the victim's lease");
        heartbeats.start();
        System.out.println("held");
        // The other end of stdin is the parent: when that is gone, there is nobody left to kill this.
        while (System.in.read() != -1) {
            continue;
        }
        System.exit(1);
    }
}
