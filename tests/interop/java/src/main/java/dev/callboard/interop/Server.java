package dev.callboard.interop;

import com.google.protobuf.Struct;
import com.google.protobuf.util.JsonFormat;
import java.io.BufferedReader;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** The server under test: a child process that chooses its own ports. */
final class Server {
    private static final Duration START = Duration.ofSeconds(10);

    final String grpc;
    private final Process process;

    private Server(Process process, String grpc) {
        this.process = process;
        this.grpc = grpc;
    }

    static Server start(String program) throws Exception {
        var command = new ProcessBuilder(
                program, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "-o", "json");
        Process process = command.redirectError(ProcessBuilder.Redirect.INHERIT).start();
        // The server must not outlive this program, even if the program fails.
        Runtime.getRuntime().addShutdownHook(new Thread(process::destroyForcibly));
        String line = firstLine(process, START);
        Check.that(line != null, "serve ended without printing its addresses");
        var addresses = Struct.newBuilder();
        JsonFormat.parser().merge(line, addresses);
        return new Server(process, addresses.getFieldsOrThrow("grpc").getStringValue());
    }

    /** Sends SIGTERM. */
    void terminate() {
        process.destroy();
    }

    int exitCode(Duration limit) throws InterruptedException {
        Check.that(process.waitFor(limit.toMillis(), TimeUnit.MILLISECONDS), "still running %s after SIGTERM", limit);
        return process.exitValue();
    }

    /** Returns the first line that a child prints, or null when it exits without one. */
    static String firstLine(Process child, Duration limit) throws Exception {
        BufferedReader output = child.inputReader();
        return CompletableFuture.supplyAsync(() -> {
            try {
                return output.readLine();
            } catch (java.io.IOException broken) {
                throw new java.io.UncheckedIOException(broken);
            }
        }).get(limit.toMillis(), TimeUnit.MILLISECONDS);
    }
}
