package dev.callboard.interop;

import com.google.protobuf.ByteString;
import dev.callboard.v1.DiscoveryServiceGrpc;
import dev.callboard.v1.WatchRequest;
import dev.callboard.v1.WatchResponse;
import io.grpc.internal.GrpcUtil;
import java.time.Duration;

/**
 * Watch of a service on one channel, for the suite replicas. It is opened with its token again whenever it ends, and each event
 * is printed as a line of JSON.
 */
final class Follower {
    private static final long REOPEN_PAUSE_MS = 100;
    private static final Duration NEVER = Duration.ofHours(1);

    private Follower() {}

    static void run(Connections connections, String service) throws InterruptedException {
        var stub = DiscoveryServiceGrpc.newStub(connections.open());
        System.out.printf("{\"event\":\"ready\",\"client\":\"grpc-java %s\"}%n", GrpcUtil.getGrpcBuildVersion().getImplementationVersion());
        var token = ByteString.EMPTY;
        while (true) {
            var messages = new MessageQueue<WatchResponse>();
            stub.watch(WatchRequest.newBuilder().addServices(service).setResumeToken(token).build(), messages);
            for (var item = messages.take(NEVER); !item.ended(); item = messages.take(NEVER)) {
                print(item.message());
                token = newest(item.message(), token);
            }
            Thread.sleep(REOPEN_PAUSE_MS);
        }
    }

    private static void print(WatchResponse message) {
        if (message.hasReset()) {
            line("reset", message.getReset().getReason().name());
        }
        message.getSnapshot().getInstancesList().forEach(instance -> line("updated", instance.getId()));
        for (var change : message.getChanges().getChangesList()) {
            if (change.hasRemoved()) {
                line("removed", change.getRemoved().getId());
            } else {
                line("updated", change.getUpdated().getId());
            }
        }
        if (message.hasSynced()) {
            line("synced", "");
        }
    }

    private static void line(String event, String id) {
        System.out.printf("{\"event\":\"%s\",\"id\":\"%s\"}%n", event, id);
    }

    /** Returns the token of a message, or the one before if it has none. */
    private static ByteString newest(WatchResponse message, ByteString before) {
        var token =
                switch (message.getMessageCase()) {
                    case SYNCED -> message.getSynced().getResumeToken();
                    case CHANGES -> message.getChanges().getResumeToken();
                    case BOOKMARK -> message.getBookmark().getResumeToken();
                    default -> ByteString.EMPTY;
                };
        return token.isEmpty() ? before : token;
    }
}
