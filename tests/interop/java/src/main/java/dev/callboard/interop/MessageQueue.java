package dev.callboard.interop;

import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** Queue of the messages of a stream, for a thread that waits for them with a deadline. */
final class MessageQueue<T> implements StreamObserver<T> {
    /** A message with its time of arrival ({@link System#nanoTime}); without a message, the end of the stream. */
    record Item<T>(long at, T message, Throwable error) {
        boolean ended() {
            return message == null;
        }
    }

    private final BlockingQueue<Item<T>> items = new LinkedBlockingQueue<>();

    @Override
    public void onNext(T message) {
        items.add(new Item<>(System.nanoTime(), message, null));
    }

    @Override
    public void onError(Throwable error) {
        items.add(new Item<>(System.nanoTime(), null, error));
    }

    @Override
    public void onCompleted() {
        items.add(new Item<>(System.nanoTime(), null, null));
    }

    /** Returns the next item: a message or the end of the stream. */
    Item<T> take(Duration limit) throws InterruptedException {
        Item<T> item = items.poll(limit.toMillis(), TimeUnit.MILLISECONDS);
        Check.that(item != null, "no message within %s", limit);
        return item;
    }

    /** Returns the next item, which must be a message. */
    Item<T> message(Duration limit) throws InterruptedException {
        Item<T> item = take(limit);
        Check.that(!item.ended(), "the stream ended: %s", item.error());
        return item;
    }

    /** Returns the next item without waiting, or null. */
    Item<T> pending() {
        return items.poll();
    }
}
