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

/** KeepAlive stream that renews all leases added to it with one message. */
final class Heartbeats implements AutoCloseable {
    /** Less than a third of the shortest TTL, which is 2 s. */
    private static final Duration INTERVAL = Duration.ofMillis(400);

    private static final Duration EVENT_TIMEOUT = Duration.ofSeconds(5);

    /** One request and its response, with the times of both by {@link System#nanoTime}. */
    record Renewal(long sent, long answered, List<LeaseReport> reports) {}

    private final MessageQueue<KeepAliveResponse> answers = new MessageQueue<>();
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

    /** Starts to send heartbeats at a fixed interval. */
    void start() {
        // A failed renewal ends the series. The leases then expire, and the steps that need them fail.
        clock.scheduleAtFixedRate(this::renewQuietly, 0, INTERVAL.toMillis(), TimeUnit.MILLISECONDS);
    }

    synchronized void add(ByteString lease) {
        leases.add(lease);
    }

    synchronized void remove(ByteString lease) {
        leases.remove(lease);
    }

    /** Sends one message with a heartbeat for each lease, and waits for its response. */
    synchronized Renewal renew() throws InterruptedException {
        var request = KeepAliveRequest.newBuilder();
        for (ByteString lease : leases) {
            request.addHeartbeats(Heartbeat.newBuilder()
                    .setLeaseId(lease)
                    .setLoad(LoadReport.newBuilder().setUtilization(0.25).setInFlight(1)));
        }
        long sent = System.nanoTime();
        requests.onNext(request.build());
        MessageQueue.Item<KeepAliveResponse> answer = answers.message(EVENT_TIMEOUT);
        List<LeaseReport> reports = answer.message().getLeasesList();
        Check.same(List.copyOf(leases), reports.stream().map(LeaseReport::getLeaseId).toList(), "leases answered");
        return new Renewal(sent, answer.at(), reports);
    }

    /** Renews all leases, including this one, and returns the report on this one. */
    synchronized LeaseReport report(ByteString lease) throws InterruptedException {
        add(lease);
        return renew().reports().stream().filter(report -> report.getLeaseId().equals(lease)).findFirst().orElseThrow();
    }

    /** Renews all leases, and excludes this one from later renewals. */
    synchronized Renewal last(ByteString lease) throws InterruptedException {
        add(lease);
        Renewal last = renew();
        remove(lease);
        return last;
    }

    /** Stops sending heartbeats, but keeps the stream open. */
    void stop() throws InterruptedException {
        clock.shutdown();
        Check.that(clock.awaitTermination(EVENT_TIMEOUT.toMillis(), TimeUnit.MILLISECONDS), "a renewal does not end");
    }

    /** Waits for this notice. Heartbeats must have been stopped. */
    void notice(Notice notice) throws InterruptedException {
        Check.same(notice, answers.message(EVENT_TIMEOUT).message().getNotice(), "notice on KeepAlive");
    }

    @Override
    public void close() {
        clock.shutdownNow();
        requests.onCompleted();
    }

    private void renewQuietly() {
        try {
            renew();
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }
}
