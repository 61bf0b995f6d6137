package dev.callboard.interop;

import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** Takes in what a stream brings, for a thread that waits for it with a deadline. */
final class Mailbox<T> implements StreamObserver<T> {
    /** A message and when it came ({@link System#nanoTime}), or, without a message, the end of the stream. */
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

    /** The next item, whatever it is. */
    Item<T> take(Duration limit) throws InterruptedException {
        Item<T> item = items.poll(limit.toMillis(), TimeUnit.MILLISECONDS);
        Check.that(item != null, "nothing came within %s", limit);
        return item;
    }

    /** The next item, which must be a message. */
    Item<T> message(Duration limit) throws InterruptedException {
        Item<T> item = take(limit);
        Check.that(!item.ended(), "the stream ended: %s", item.error());
        return item;
    }

    /** What has come and was not taken; null when nothing has. */
    Item<T> pending() {
        return items.poll();
    }
}
