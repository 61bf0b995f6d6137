package dev.callboard.interop;

import com.google.protobuf.FieldMask;
import dev.callboard.v1.Address;
import dev.callboard.v1.DiscoveryServiceGrpc;
import dev.callboard.v1.DiscoveryServiceGrpc.DiscoveryServiceBlockingStub;
import dev.callboard.v1.Locality;
import dev.callboard.v1.RegisterRequest;
import dev.callboard.v1.RegistryServiceGrpc;
import dev.callboard.v1.RegistryServiceGrpc.RegistryServiceBlockingStub;
import dev.callboard.v1.UpdateInstanceRequest;
import dev.callboard.v1.WatchRequest;
import io.grpc.ManagedChannel;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.TimeUnit;

/** Stubs with a deadline, and requests, for the steps. */
abstract class StepSupport {
    protected final Connections connections;
    protected final ManagedChannel channel;

    protected StepSupport(Connections connections) {
        this.connections = connections;
        this.channel = connections.open();
    }

    protected final RegistryServiceBlockingStub registry() {
        return RegistryServiceGrpc.newBlockingStub(channel).withDeadlineAfter(5, TimeUnit.SECONDS);
    }

    protected final DiscoveryServiceBlockingStub discovery() {
        return DiscoveryServiceGrpc.newBlockingStub(channel).withDeadlineAfter(5, TimeUnit.SECONDS);
    }

    /** Returns a registration with the default TTL, which is 15 s. */
    protected static RegisterRequest.Builder instance(String service, String id, String... tags) {
        return RegisterRequest.newBuilder()
                .setService(service)
                .setId(id)
                .setBootId(UUID.randomUUID().toString())
                .addAddresses(address(9001))
                .addAllTags(List.of(tags))
                .setLocality(Locality.newBuilder().setRegion("eu").setZone("eu-1a"));
    }

    static Address address(int port) {
        return Address.newBuilder().setHost("127.0.0.1").setPort(port).setName("grpc").build();
    }

    protected static UpdateInstanceRequest.Builder update(String service, String id, String... fields) {
        return UpdateInstanceRequest.newBuilder()
                .setService(service)
                .setId(id)
                .setUpdateMask(FieldMask.newBuilder().addAllPaths(List.of(fields)));
    }

    protected static WatchRequest watching(String... services) {
        return WatchRequest.newBuilder().addAllServices(List.of(services)).build();
    }
}
