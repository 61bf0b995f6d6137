package dev.callboard.interop;

import com.google.protobuf.ByteString;
import com.google.rpc.RetryInfo;
import dev.callboard.v1.Address;
import dev.callboard.v1.DeregisterRequest;
import dev.callboard.v1.GetInstanceRequest;
import dev.callboard.v1.Instance;
import dev.callboard.v1.LeaseState;
import dev.callboard.v1.RegisterRequest;
import dev.callboard.v1.RemovalReason;
import dev.callboard.v1.ResetReason;
import dev.callboard.v1.WatchRequest;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.health.v1.HealthGrpc;
import io.grpc.reflection.v1.ServerReflectionGrpc;
import io.grpc.reflection.v1.ServerReflectionRequest;
import io.grpc.reflection.v1.ServerReflectionResponse;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

/** Invalid requests, lost leases, replaced registrations, filters, health, reflection. Each step has a service of its own. */
final class EdgeCases extends StepSupport {
    private final Heartbeats heartbeats;

    EdgeCases(Connections connections, Heartbeats heartbeats) {
        super(connections);
        this.heartbeats = heartbeats;
    }

    void errors() throws Exception {
        var garbage = watching("tokens").toBuilder().setResumeToken(ByteString.copyFromUtf8("not a token"));
        try (var watcher = new Watcher(connections, garbage.build())) {
            watcher.error().checked(Status.Code.INVALID_ARGUMENT).checkFieldViolation("resume_token");
        }
        rejects(instance("", "x"), "service");
        rejects(instance("tokens", "x").setWeight(65_536), "weight");
        var portless = Address.newBuilder().setHost("127.0.0.1");
        rejects(instance("tokens", "x").setAddresses(0, portless), "addresses[0].port");
        var unknown = GetInstanceRequest.newBuilder().setService("tokens").setId("nobody").build();
        CallError.expect(Status.Code.NOT_FOUND, () -> discovery().getInstance(unknown));
    }

    void reset() throws InterruptedException {
        registry().register(instance("selection", "one").build());
        ByteString token;
        try (var watcher = new Watcher(connections, watching("selection"))) {
            watcher.snapshot();
            token = watcher.token();
        }
        var other = WatchRequest.newBuilder().setPrefix("selec").setResumeToken(token).build();
        try (var watcher = new Watcher(connections, other)) {
            Check.same(ResetReason.RESET_REASON_OTHER_SELECTOR, watcher.reset(), "reason of the reset");
            Check.same(Set.of("selection/one"), watcher.snapshot().keySet(), "snapshot");
        }
    }

    void leases() throws Exception {
        ByteString unknown = ByteString.copyFrom(new byte[16]);
        Check.same(LeaseState.LEASE_STATE_UNKNOWN, heartbeats.report(unknown).getState(), "the state of an unknown lease");
        heartbeats.remove(unknown);

        ByteString lease = registry().register(instance("leases", "one").build()).getLeaseId();
        Check.same(LeaseState.LEASE_STATE_HELD, heartbeats.report(lease).getState(), "the state of a new lease");
        // A request without lease and boot is an operator's.
        var request = DeregisterRequest.newBuilder().setService("leases").setId("one").build();
        Check.that(registry().deregister(request).getRemoved(), "nothing was removed");
        Check.same(LeaseState.LEASE_STATE_REMOVED, heartbeats.report(lease).getState(), "the state of the removed lease");
        heartbeats.remove(lease);
        CallError.expect(Status.Code.NOT_FOUND, () -> registry().deregister(request));
    }

    void secondBoot() throws Exception {
        ByteString first = registry().register(instance("boots", "one").build()).getLeaseId();
        Check.same(LeaseState.LEASE_STATE_HELD, heartbeats.report(first).getState(), "the first boot's lease");
        try (var watcher = new Watcher(connections, watching("boots"))) {
            Instance before = watcher.snapshot().get("boots/one");
            RegisterRequest second = instance("boots", "one").build();
            CallError taken = CallError.expect(Status.Code.ALREADY_EXISTS, () -> registry().register(second));
            var delay = taken.detail(RetryInfo.class).getRetryDelay();
            Check.that(delay.getSeconds() > 0 || delay.getNanos() > 0, "RetryInfo has no delay");

            ByteString lease = registry().register(second.toBuilder().setReplace(true).build()).getLeaseId();
            Instance after = watcher.updated("one");
            Check.that(
                    after.getRegisteredRevision() > before.getRegisteredRevision(),
                    "registered_revision did not rise: %d, %d",
                    before.getRegisteredRevision(),
                    after.getRegisteredRevision());
            Check.same(LeaseState.LEASE_STATE_SUPERSEDED, heartbeats.report(first).getState(), "the first boot's lease");
            heartbeats.remove(first);
            Check.same(LeaseState.LEASE_STATE_HELD, heartbeats.report(lease).getState(), "the second boot's lease");

            var late = DeregisterRequest.newBuilder().setService("boots").setId("one").setLeaseId(first).build();
            Check.that(!registry().deregister(late).getRemoved(), "the replaced lease removed the instance");
        }
    }

    void filter() throws InterruptedException {
        register(instance("colours", "one", "blue"));
        register(instance("colours", "two", "green"));
        var blue = watching("colours").toBuilder().setFilter("\"blue\" in tags").build();
        try (var watcher = new Watcher(connections, blue)) {
            Check.same(Set.of("colours/one"), watcher.snapshot().keySet(), "snapshot");
            registry().updateInstance(update("colours", "two", "weight").setWeight(8).build());
            registry().updateInstance(update("colours", "one", "tags").addTags("green").build());
            watcher.removed("one", RemovalReason.REMOVAL_REASON_NO_LONGER_MATCHES, Watcher.EVENT_TIMEOUT);
            registry().updateInstance(update("colours", "two", "tags").addTags("blue").build());
            Check.same(8, watcher.updated("two").getWeight(), "weight of the instance that matches now");
        }
    }

    void watchBeforeRegistration() throws InterruptedException {
        try (var watcher = new Watcher(connections, watching("unborn"))) {
            Check.same(Set.of(), watcher.snapshot().keySet(), "snapshot");
            long revision = registry().register(instance("unborn", "first").build()).getRevision();
            Check.same(revision, watcher.updated("first").getRevision(), "revision of the first registration");
        }
    }

    /** Does not call List, because grpc-services has no stub for it. */
    void health() throws InterruptedException {
        for (String name : Set.of("", "callboard.v1.RegistryService", "shop")) {
            Check.same(ServingStatus.SERVING, check(name), "health of \"" + name + "\"");
        }
        try {
            check("late");
            throw new AssertionError("Check of an unknown name succeeded");
        } catch (StatusRuntimeException error) {
            Check.same(Status.Code.NOT_FOUND, error.getStatus().getCode(), "code of Check of an unknown name");
        }
        var messages = new MessageQueue<HealthCheckResponse>();
        HealthGrpc.newStub(channel).watch(HealthCheckRequest.newBuilder().setService("late").build(), messages);
        Check.same(ServingStatus.SERVICE_UNKNOWN, messages.message(Watcher.EVENT_TIMEOUT).message().getStatus(), "health");
        register(instance("late", "one"));
        Check.same(ServingStatus.SERVING, messages.message(Watcher.EVENT_TIMEOUT).message().getStatus(), "health");
        registry().updateInstance(update("late", "one", "draining").setDraining(true).build());
        Check.same(ServingStatus.NOT_SERVING, messages.message(Watcher.EVENT_TIMEOUT).message().getStatus(), "health");
    }

    void reflection() throws InterruptedException {
        var answers = new MessageQueue<ServerReflectionResponse>();
        var requests = ServerReflectionGrpc.newStub(channel).serverReflectionInfo(answers);
        requests.onNext(ServerReflectionRequest.newBuilder().setListServices("").build());
        var listed = answers.message(Watcher.EVENT_TIMEOUT).message().getListServicesResponse();
        Set<String> names = listed.getServiceList().stream()
                .map(service -> service.getName())
                .collect(Collectors.toSet());
        for (String name : Set.of(
                "callboard.v1.RegistryService",
                "callboard.v1.DiscoveryService",
                "callboard.v1.AdminService",
                "grpc.health.v1.Health")) {
            Check.that(names.contains(name), "reflection lists %s, not %s", names, name);
        }
        requests.onCompleted();
    }

    private void register(RegisterRequest.Builder request) {
        heartbeats.add(registry().register(request.build()).getLeaseId());
    }

    private void rejects(RegisterRequest.Builder request, String field) throws Exception {
        CallError.expect(Status.Code.INVALID_ARGUMENT, () -> registry().register(request.build()))
                .checkFieldViolation(field);
    }

    private ServingStatus check(String name) {
        return HealthGrpc.newBlockingStub(channel)
                .withDeadlineAfter(5, TimeUnit.SECONDS)
                .check(HealthCheckRequest.newBuilder().setService(name).build())
                .getStatus();
    }
}
