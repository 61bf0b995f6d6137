package dev.callboard.interop;

import com.google.protobuf.ByteString;
import dev.callboard.v1.Heartbeat;
import dev.callboard.v1.KeepAliveRequest;
import dev.callboard.v1.KeepAliveResponse;
import dev.callboard.v1.LeaseReport;
import dev.callboard.v1.LoadReport;
import dev.callboard.v1.Notice;
import dev.callboard.v1.RegistryServiceGrpc;
import io.grpc.Channel;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/** One KeepAlive stream that carries the heartbeats of every lease added to it, all in one message. */
final class Heartbeats implements AutoCloseable {
    /** A third of the shortest lease (2 s) is 667 ms. */
    private static final Duration EVERY = Duration.ofMillis(400);

    private static final Duration PATIENCE = Duration.ofSeconds(5);

    /** When a message went out and when its answer was here, by {@link System#nanoTime}. */
    record Beat(long sent, long answered, List<LeaseReport> reports) {}

    private final Mailbox<KeepAliveResponse> answers = new Mailbox<>();
    private final StreamObserver<KeepAliveRequest> requests;
    private final ScheduledExecutorService clock = Executors.newSingleThreadScheduledExecutor(task -> {
        var thread = new Thread(task, "heartbeats");
        thread.setDaemon(true);
        return thread;
    });
    private final Set<ByteString> leases = new LinkedHashSet<>();

    Heartbeats(Channel channel) {
        requests = RegistryServiceGrpc.newStub(channel).keepAlive(answers);
    }

    /** From now on, heartbeats go out by themselves. */
    void start() {
        // A heartbeat that fails ends the series; the lease runs out, and the step that needs it says so.
        clock.scheduleAtFixedRate(this::beatQuietly, 0, EVERY.toMillis(), TimeUnit.MILLISECONDS);
    }

    synchronized void add(ByteString lease) {
        leases.add(lease);
    }

    synchronized void remove(ByteString lease) {
        leases.remove(lease);
    }

    /** Sends one message with a heartbeat for each lease, and waits for its answer. */
    synchronized Beat beat() throws InterruptedException {
        var request = KeepAliveRequest.newBuilder();
        for (ByteString lease : leases) {
            request.addHeartbeats(Heartbeat.newBuilder()
                    .setLeaseId(lease)
                    .setLoad(LoadReport.newBuilder().setUtilization(0.25).setInFlight(1)));
        }
        long sent = System.nanoTime();
        requests.onNext(request.build());
        Mailbox.Item<KeepAliveResponse> answer = answers.message(PATIENCE);
        List<LeaseReport> reports = answer.message().getLeasesList();
        Check.same(List.copyOf(leases), reports.stream().map(LeaseReport::getLeaseId).toList(), "leases answered");
        return new Beat(sent, answer.at(), reports);
    }

    /** What a heartbeat sent now hears of this lease. */
    synchronized LeaseReport report(ByteString lease) throws InterruptedException {
        add(lease);
        return beat().reports().stream().filter(report -> report.getLeaseId().equals(lease)).findFirst().orElseThrow();
    }

    /** A last heartbeat for this lease, while the others go on. */
    synchronized Beat last(ByteString lease) throws InterruptedException {
        add(lease);
        Beat last = beat();
        remove(lease);
        return last;
    }

    /** Stops sending and keeps the stream open. */
    void stop() throws InterruptedException {
        clock.shutdown();
        Check.that(clock.awaitTermination(PATIENCE.toMillis(), TimeUnit.MILLISECONDS), "a heartbeat is stuck");
    }

    /** Waits for this notice, once heartbeats have stopped. */
    void notice(Notice notice) throws InterruptedException {
        Check.same(notice, answers.message(PATIENCE).message().getNotice(), "notice on KeepAlive");
    }

    @Override
    public void close() {
        clock.shutdownNow();
        requests.onCompleted();
    }

    private void beatQuietly() {
        try {
            beat();
        } catch (InterruptedException stopped) {
            Thread.currentThread().interrupt();
        }
    }
}
