package dev.callboard.interop.xds;

import com.google.gson.Gson;
import io.grpc.Status;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;

/** Calls by backend, and failed calls by error. */
final class Tally {
    private static final int MAX_ERROR_TEXT = 200;
    private static final int MAX_ERRORS = 20;

    private final Map<String, Integer> backends = new HashMap<>();
    private final Map<String, Integer> errors = new HashMap<>();

    synchronized void add(byte[] response) {
        backends.merge(new String(response, StandardCharsets.UTF_8), 1, Integer::sum);
    }

    synchronized void add(Status status) {
        var cause = status.getCause() == null ? "" : ": " + status.getCause().getMessage();
        var text = "%s: %s%s".formatted(status.getCode(), status.getDescription(), cause);
        text = text.substring(0, Math.min(text.length(), MAX_ERROR_TEXT));
        if (errors.containsKey(text) || errors.size() < MAX_ERRORS) {
            errors.merge(text, 1, Integer::sum);
        }
    }

    synchronized void print(String event) {
        emit(Map.of("event", event, "backends", backends, "errors", errors));
    }

    static void emit(Map<String, ?> line) {
        System.out.println(new Gson().toJson(line));
    }
}
