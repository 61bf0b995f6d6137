package dev.callboard.interop.xds;

import com.google.gson.Gson;
import io.grpc.Status;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Calls by backend, and failed calls by error, with their times. */
final class Tally {
    private static final int MAX_ERROR_TEXT = 200;
    private static final int MAX_ERRORS = 20;

    private final Map<String, Integer> backends = new HashMap<>();
    private final Map<String, Integer> errors = new HashMap<>();
    /** Milliseconds, by backend. */
    private final Map<String, List<Double>> times = new HashMap<>();

    synchronized void add(long began, byte[] response) {
        var backend = new String(response, StandardCharsets.UTF_8);
        backends.merge(backend, 1, Integer::sum);
        addTime(backend, began);
    }

    synchronized void add(long began, Status status) {
        addTime("failed", began);
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

    synchronized void printWithTimes(String event) {
        emit(Map.of("event", event, "backends", backends, "errors", errors, "ms", times));
    }

    private void addTime(String backend, long began) {
        var micros = (System.nanoTime() - began) / 1000;
        times.computeIfAbsent(backend, key -> new ArrayList<>()).add(micros / 1000.0);
    }

    static void emit(Map<String, ?> line) {
        System.out.println(new Gson().toJson(line));
    }
}
