package dev.callboard.interop.xds;

import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.xds.XdsChannelCredentials;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Semaphore;

/**
 * A grpc-java program that knows nothing of Callboard. It takes commands on stdin, one a line, and prints JSON lines. The README
 * of the suites has the commands.
 */
public final class Client {
    private final ManagedChannel channel;
    /** Cancel the open streams. */
    private final List<Runnable> parked = new ArrayList<>();
    private Load load;

    private Client(ManagedChannel channel) {
        this.channel = channel;
    }

    public static void main(String[] arguments) throws Exception {
        var channel = Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create()).build();
        var version = XdsChannelCredentials.class.getPackage().getImplementationVersion();
        Tally.emit(Map.of("event", "ready", "client", "grpc-java " + version));
        new Client(channel).run(new BufferedReader(new InputStreamReader(System.in)));
        System.exit(0); // ends the threads of the channel too
    }

    /** Runs the commands until {@code quit} or the end of the input. */
    private void run(BufferedReader commands) throws IOException, InterruptedException {
        for (var line = commands.readLine(); line != null; line = commands.readLine()) {
            var words = line.trim().split("\\s+");
            switch (words[0]) {
                case "call" -> callMany(Integer.parseInt(words[1]), Integer.parseInt(words[2]), echo(words, 3));
                case "park" -> park(Integer.parseInt(words[1]), echo(words, 2));
                case "unpark" -> {
                    parked.forEach(Runnable::run);
                    parked.clear();
                    new Tally().print("unparked");
                }
                case "start" -> load = new Load(echo(words, 2), Integer.parseInt(words[1]));
                case "stats" -> load.tally().print("stats");
                case "stop" -> {
                    load.stop();
                    load.tally().printWithTimes("stopped");
                }
                case "quit" -> {
                    return;
                }
                default -> throw new IllegalArgumentException("invalid command \"%s\"".formatted(line));
            }
        }
    }

    private Echo echo(String[] words, int firstOption) {
        return new Echo(channel, Settings.parse(Arrays.asList(words).subList(firstOption, words.length)));
    }

    private void callMany(int calls, int parallel, Echo echo) throws InterruptedException {
        var tally = new Tally();
        var permits = new Semaphore(parallel);
        for (int i = 0; i < calls; i++) {
            permits.acquire();
            echo.call(tally, permits::release);
        }
        permits.acquire(parallel);
        tally.printWithTimes("called");
    }

    /** Opens streams one after the other, each after the first response of the one before. */
    private void park(int streams, Echo echo) {
        var tally = new Tally();
        for (int i = 0; i < streams; i++) {
            parked.add(echo.openStream(tally));
        }
        tally.printWithTimes("parked");
    }
}
