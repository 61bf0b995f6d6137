package dev.callboard.interop;

import java.util.Objects;

/** Assertions, so that the program needs no test framework. */
final class Check {
    private Check() {}

    static void that(boolean condition, String message, Object... values) {
        if (!condition) {
            throw new AssertionError(message.formatted(values));
        }
    }

    static void same(Object expected, Object actual, String what) {
        that(Objects.equals(expected, actual), "%s: expected %s, got %s", what, expected, actual);
    }
}
