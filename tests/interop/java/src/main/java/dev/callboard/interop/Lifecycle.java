package dev.callboard.interop;

import com.google.protobuf.ByteString;
import com.google.protobuf.util.Durations;
import dev.callboard.v1.Change;
import dev.callboard.v1.DeregisterRequest;
import dev.callboard.v1.GetInstanceRequest;
import dev.callboard.v1.Instance;
import dev.callboard.v1.InstanceStatus;
import dev.callboard.v1.LeaseReport;
import dev.callboard.v1.LeaseState;
import dev.callboard.v1.ListInstancesRequest;
import dev.callboard.v1.Notice;
import dev.callboard.v1.RegisterRequest;
import dev.callboard.v1.RegisterResponse;
import dev.callboard.v1.RemovalReason;
import dev.callboard.v1.WatchRequest;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.health.v1.HealthGrpc;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Registration, renewal, update, removal and resumption: the instances of one service, and a watch of it. */
final class Lifecycle extends StepSupport {
    private static final String SHOP = "shop";

    /** Allowed delay of a removal: one second for the server, and 0.1 s for delivery and measurement. */
    private static final Duration MAX_DELAY = Duration.ofMillis(1_100);

    final Heartbeats heartbeats;
    private final Map<String, ByteString> leases = new HashMap<>();
    private Watcher watcher;

    Lifecycle(Connections connections) {
        super(connections);
        heartbeats = new Heartbeats(channel);
    }

    void registers() {
        long last = 0;
        var requests = Map.of(
                "a", instance(SHOP, "a", "blue", "v1").setWeight(1).putMetadata("team", "checkout"),
                "b", instance(SHOP, "b", "green").setWeight(2),
                "c", instance(SHOP, "c", "blue", "v2").setWeight(3));
        for (String id : requests.keySet()) {
            RegisterRequest.Builder request = requests.get(id);
            request.getLocalityBuilder().setZone("eu-1" + id);
            RegisterResponse registered = registry().register(request.build());
            Check.same(16, registered.getLeaseId().size(), "bytes of the lease id");
            Check.same(15L, registered.getTtl().getSeconds(), "TTL granted by default");
            Check.that(registered.getRevision() > last, "revision %d after %d", registered.getRevision(), last);
            last = registered.getRevision();
            leases.put(id, registered.getLeaseId());
            heartbeats.add(registered.getLeaseId());

            RegisterResponse repeated = registry().register(request.build());
            Check.same(registered, repeated, "the response to the same Register again");
        }
        var listed = discovery().listInstances(ListInstancesRequest.newBuilder().setService(SHOP).build());
        Check.same(3, listed.getInstancesCount(), "instances listed");
    }

    void heartbeats() throws InterruptedException {
        Heartbeats.Renewal renewal = heartbeats.renew();
        Check.same(3, renewal.reports().size(), "reports in one response");
        for (LeaseReport report : renewal.reports()) {
            Check.same(LeaseState.LEASE_STATE_HELD, report.getState(), "state of a lease");
            long left = Durations.toMillis(report.getTimeLeft());
            Check.that(left > 0 && left <= 15_000, "%d ms left of 15 s", left);
        }
        var lease = discovery()
                .getInstance(GetInstanceRequest.newBuilder().setService(SHOP).setId("a").build());
        Check.that(lease.getLease().getConnected(), "GetInstance reports the heartbeat stream as closed");
        Check.same(0.25, lease.getLoad().getUtilization(), "utilization reported");
        heartbeats.start();
    }

    void watches() throws InterruptedException {
        watcher = new Watcher(connections, watching(SHOP));
        Map<String, Instance> instances = watcher.snapshot();
        Check.same(Set.of("shop/a", "shop/b", "shop/c"), instances.keySet(), "snapshot");
        Instance b = instances.get("shop/b");
        Check.same("127.0.0.1", b.getAddresses(0).getHost(), "host");
        Check.same(9001, b.getAddresses(0).getPort(), "port");
        Check.same("eu-1b", b.getLocality().getZone(), "zone");
        Check.same(2, b.getWeight(), "weight");
        Check.same(InstanceStatus.INSTANCE_STATUS_SERVING, b.getStatus(), "status");
        Check.that(b.getRegisteredAt().getSeconds() > 0, "registered_at is not set");
        Check.same(Map.of("team", "checkout"), instances.get("shop/a").getMetadataMap(), "metadata");
    }

    void seesChange() throws InterruptedException {
        var request = update(SHOP, "a", "weight", "tags")
                .setLeaseId(leases.get("a"))
                .setWeight(5)
                .addTags("gold")
                .putMetadata("outside", "the mask")
                .build();
        Instance answered = registry().updateInstance(request).getInstance();
        Instance seen = watcher.updated("a");
        Check.same(answered, seen, "the instance on the watch");
        Check.same(5, seen.getWeight(), "weight");
        Check.same(List.of("gold"), seen.getTagsList(), "tags");
        Check.same(Map.of("team", "checkout"), seen.getMetadataMap(), "metadata, which the mask does not name");
        // An equal update causes no event; the next step would fail if one arrived.
        Check.same(seen, registry().updateInstance(request).getInstance(), "the instance after the same update");
    }

    void seesDrain() throws InterruptedException {
        registry().updateInstance(update(SHOP, "b", "draining").setDraining(true).build());
        Check.same(InstanceStatus.INSTANCE_STATUS_DRAINING, watcher.updated("b").getStatus(), "status");
        registry().updateInstance(update(SHOP, "b", "draining").setDraining(false).build());
        Check.same(InstanceStatus.INSTANCE_STATUS_SERVING, watcher.updated("b").getStatus(), "status");
    }

    void seesDeregistration() throws InterruptedException {
        Check.that(deregister("c"), "nothing was removed");
        watcher.removed("c", RemovalReason.REMOVAL_REASON_DEREGISTERED, Watcher.EVENT_TIMEOUT);
    }

    void seesKill() throws Exception {
        var request = WatchRequest.newBuilder().setPrefix("mort").build();
        try (var removals = new Watcher(connections, request)) {
            Check.same(Map.of(), removals.snapshot(), "snapshot before the registration");
            VictimProcess victim = VictimProcess.start(connections);
            removals.updated(VictimProcess.ID);
            long killed = victim.kill();
            var gone = removals.removed(VictimProcess.ID, RemovalReason.REMOVAL_REASON_EXPIRED, Watcher.EVENT_TIMEOUT);
            checkDelay("removal after SIGKILL", killed, killed, gone.at(), VictimProcess.GRACE);
        }
    }

    void seesExpiry() throws InterruptedException {
        var ttl = Duration.ofSeconds(2);
        var request = instance("brief", "one").setTtl(Durations.fromMillis(ttl.toMillis())).build();
        ByteString lease = registry().register(request).getLeaseId();
        try (var removals = new Watcher(connections, watching("brief", "unheard-of"))) {
            Check.same(Set.of("brief/one"), removals.snapshot().keySet(), "snapshot");
            Heartbeats.Renewal last = heartbeats.last(lease);
            var gone = removals.removed("one", RemovalReason.REMOVAL_REASON_EXPIRED, Watcher.EVENT_TIMEOUT);
            checkDelay("expiry", last.sent(), last.answered(), gone.at(), ttl);
        }
        Check.same(LeaseState.LEASE_STATE_UNKNOWN, heartbeats.report(lease).getState(), "the state of the expired lease");
        heartbeats.remove(lease);
    }

    void resumes() throws InterruptedException {
        watcher.close();
        ByteString token = watcher.token();
        registry().updateInstance(update(SHOP, "a", "weight").setWeight(7).build());
        registry().updateInstance(update(SHOP, "a", "weight").setWeight(9).build());
        Check.that(deregister("b"), "nothing was removed");
        register(instance(SHOP, "c"));
        register(instance(SHOP, "passing"));
        Check.that(deregister("passing"), "nothing was removed");

        watcher = new Watcher(connections, watching(SHOP).toBuilder().setResumeToken(token).build());
        var missed = new HashMap<String, String>();
        for (Change change : watcher.missed()) {
            String id = change.hasUpdated() ? change.getUpdated().getId() : change.getRemoved().getId();
            String what = change.hasUpdated()
                    ? "weight " + change.getUpdated().getWeight()
                    : change.getRemoved().getReason().toString();
            Check.that(missed.put(id, what) == null, "two changes of %s", id);
        }
        var expected = Map.of("a", "weight 9", "b", "REMOVAL_REASON_DEREGISTERED", "c", "weight 1");
        Check.same(expected, missed, "changes on the resumed stream");
        registry().updateInstance(update(SHOP, "c", "weight").setWeight(4).build());
        Check.same(4, watcher.updated("c").getWeight(), "weight");
    }

    /** Sends SIGTERM while a watch, a health watch and a KeepAlive stream are open. */
    void shutdown(Server server) throws InterruptedException {
        heartbeats.stop();
        var health = new MessageQueue<HealthCheckResponse>();
        HealthGrpc.newStub(channel).watch(HealthCheckRequest.getDefaultInstance(), health);
        Check.same(ServingStatus.SERVING, health.message(Watcher.EVENT_TIMEOUT).message().getStatus(), "health");
        server.terminate();
        Check.same(ServingStatus.NOT_SERVING, health.message(Watcher.EVENT_TIMEOUT).message().getStatus(), "health");
        watcher.notice(Notice.NOTICE_RECONNECT);
        heartbeats.notice(Notice.NOTICE_RECONNECT);
        Check.same(0, server.exitCode(Duration.ofSeconds(6)), "exit code");
        watcher.close();
        heartbeats.close();
    }

    private void register(RegisterRequest.Builder request) {
        ByteString lease = registry().register(request.build()).getLeaseId();
        leases.put(request.getId(), lease);
        heartbeats.add(lease);
    }

    private boolean deregister(String id) {
        ByteString lease = leases.remove(id);
        heartbeats.remove(lease);
        var request = DeregisterRequest.newBuilder().setService(SHOP).setId(id).setLeaseId(lease).build();
        return registry().deregister(request).getRemoved();
    }

    /**
     * Checks the time of a removal: not before {@code due} after the earliest possible start, and at most MAX_DELAY later
     * than {@code due} after the latest.
     */
    private static void checkDelay(String what, long earliest, long latest, long at, Duration due) {
        Duration most = Duration.ofNanos(at - earliest);
        Duration least = Duration.ofNanos(at - latest);
        System.out.printf("        %s: after %d ms, due after %d ms%n", what, most.toMillis(), due.toMillis());
        Check.that(most.compareTo(due) >= 0, "%s after %s, before it was due (%s)", what, most, due);
        Check.that(least.compareTo(due.plus(MAX_DELAY)) <= 0, "%s after %s, due after %s", what, least, due);
    }
}
