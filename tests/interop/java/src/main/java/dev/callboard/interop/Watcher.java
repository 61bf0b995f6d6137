package dev.callboard.interop;

import com.google.protobuf.ByteString;
import dev.callboard.v1.Change;
import dev.callboard.v1.DiscoveryServiceGrpc;
import dev.callboard.v1.Instance;
import dev.callboard.v1.Notice;
import dev.callboard.v1.RemovalReason;
import dev.callboard.v1.Removal;
import dev.callboard.v1.ResetReason;
import dev.callboard.v1.Synced;
import dev.callboard.v1.WatchRequest;
import dev.callboard.v1.WatchResponse;
import dev.callboard.v1.WatchResponse.MessageCase;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** Watch on a connection of its own. Checks that revisions increase, and that each comes with a resume token. */
final class Watcher implements AutoCloseable {
    static final Duration EVENT_TIMEOUT = Duration.ofSeconds(5);

    /** A removal with its time of arrival. */
    record SeenRemoval(Removal removal, long at) {}

    private final ManagedChannel channel;
    private final Context.CancellableContext context = Context.ROOT.withCancellation();
    private final MessageQueue<WatchResponse> messages = new MessageQueue<>();
    private long revision;
    private ByteString token = ByteString.EMPTY;

    Watcher(Connections connections, WatchRequest request) {
        channel = connections.open();
        context.run(() -> DiscoveryServiceGrpc.newStub(channel).watch(request, messages));
    }

    ByteString token() {
        return token;
    }

    long revision() {
        return revision;
    }

    /** Reads a snapshot up to Synced. */
    Map<String, Instance> snapshot() throws InterruptedException {
        var instances = new TreeMap<String, Instance>();
        while (true) {
            WatchResponse message = next(EVENT_TIMEOUT).message();
            if (message.hasSynced()) {
                synced(message.getSynced());
                return instances;
            }
            expect(MessageCase.SNAPSHOT, message);
            for (Instance instance : message.getSnapshot().getInstancesList()) {
                String name = instance.getService() + "/" + instance.getId();
                Check.that(instances.put(name, instance) == null, "%s is in the snapshot twice", name);
            }
        }
    }

    /** Reads a Reset and returns its reason. */
    ResetReason reset() throws InterruptedException {
        WatchResponse message = next(EVENT_TIMEOUT).message();
        expect(MessageCase.RESET, message);
        return message.getReset().getReason();
    }

    /** Reads the changes of a resumed stream up to Synced. */
    List<Change> missed() throws InterruptedException {
        var changes = new ArrayList<Change>();
        while (true) {
            WatchResponse message = next(EVENT_TIMEOUT).message();
            if (message.hasSynced()) {
                synced(message.getSynced());
                return changes;
            }
            expect(MessageCase.CHANGES, message);
            advance(message);
            changes.addAll(message.getChanges().getChangesList());
        }
    }

    /** Returns the next change, which must be an update of this instance. */
    Instance updated(String id) throws InterruptedException {
        Change change = singleChange(next(EVENT_TIMEOUT).message());
        Check.that(change.hasUpdated(), "expected an update of %s, got %s", id, change);
        Check.same(id, change.getUpdated().getId(), "updated instance");
        return change.getUpdated();
    }

    /** Returns the next change, which must be the removal of this instance for this reason. */
    SeenRemoval removed(String id, RemovalReason reason, Duration limit) throws InterruptedException {
        MessageQueue.Item<WatchResponse> item = next(limit);
        Change change = singleChange(item.message());
        Check.that(change.hasRemoved(), "expected the removal of %s, got %s", id, change);
        Check.same(id, change.getRemoved().getId(), "removed instance");
        Check.same(reason, change.getRemoved().getReason(), "reason of the removal of " + id);
        return new SeenRemoval(change.getRemoved(), item.at());
    }

    /** Reads the next message, which must be this notice. */
    void notice(Notice notice) throws InterruptedException {
        WatchResponse message = next(EVENT_TIMEOUT).message();
        expect(MessageCase.NOTICE, message);
        Check.same(notice, message.getNotice(), "notice");
    }

    /** Waits for the error that ends the stream. */
    CallError error() throws InterruptedException {
        MessageQueue.Item<WatchResponse> item = messages.take(EVENT_TIMEOUT);
        Check.that(item.error() != null, "expected an error, got %s", item);
        return CallError.of(item.error());
    }

    /** Cancels the watch, and checks that it has no unread messages except bookmarks. */
    @Override
    public void close() {
        context.cancel(null);
        channel.shutdownNow();
        var item = messages.pending();
        while (item != null && !item.ended()) {
            Check.that(item.message().hasBookmark(), "unexpected message: %s", item.message());
            item = messages.pending();
        }
    }

    private Change singleChange(WatchResponse message) {
        expect(MessageCase.CHANGES, message);
        advance(message);
        Check.same(1, message.getChanges().getChangesCount(), "number of changes in " + message);
        return message.getChanges().getChanges(0);
    }

    /** Returns the next message that is not a bookmark. */
    private MessageQueue.Item<WatchResponse> next(Duration limit) throws InterruptedException {
        long until = System.nanoTime() + limit.toNanos();
        while (true) {
            var item = messages.message(Duration.ofNanos(Math.max(0, until - System.nanoTime())));
            if (!item.message().hasBookmark()) {
                return item;
            }
            var bookmark = item.message().getBookmark();
            advanceTo(bookmark.getRevision(), bookmark.getResumeToken());
        }
    }

    private void advance(WatchResponse message) {
        var changes = message.getChanges();
        // With revision 0, more messages of the same step follow.
        if (changes.getRevision() != 0) {
            advanceTo(changes.getRevision(), changes.getResumeToken());
        }
    }

    private void advanceTo(long to, ByteString token) {
        Check.that(Long.compareUnsigned(to, revision) > 0, "revision went from %d to %d", revision, to);
        setPosition(to, token);
    }

    private void synced(Synced synced) {
        // A resumed stream may be synced at the revision of its last change.
        Check.that(
                Long.compareUnsigned(synced.getRevision(), revision) >= 0,
                "synced at %d, after %d",
                synced.getRevision(),
                revision);
        setPosition(synced.getRevision(), synced.getResumeToken());
    }

    private void setPosition(long revision, ByteString token) {
        Check.that(!token.isEmpty(), "revision %d has no resume token", revision);
        this.revision = revision;
        this.token = token;
    }

    private static void expect(MessageCase expected, WatchResponse message) {
        Check.that(message.getMessageCase() == expected, "expected %s, got %s", expected, message);
    }
}
