package dev.callboard.interop.xds;

import java.util.concurrent.Executors;
import java.util.concurrent.Phaser;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/** A background load of a fixed rate. */
final class Load {
    private final Tally tally = new Tally();
    private final ScheduledExecutorService clock = Executors.newSingleThreadScheduledExecutor();
    /** Open calls, and one party that {@link #stop} takes away. */
    private final Phaser open = new Phaser(1);

    Load(Echo echo, int rate) {
        Runnable call = () -> {
            open.register();
            echo.call(tally, open::arriveAndDeregister);
        };
        clock.scheduleAtFixedRate(call, 0, TimeUnit.SECONDS.toNanos(1) / rate, TimeUnit.NANOSECONDS);
    }

    Tally tally() {
        return tally;
    }

    /** Begins no more calls, and waits for the end of the open ones. */
    void stop() throws InterruptedException {
        clock.shutdown();
        clock.awaitTermination(1, TimeUnit.MINUTES);
        open.arriveAndAwaitAdvance();
    }
}
