package dev.callboard.interop;

import java.util.Objects;

/** What must hold. Here, so that the program needs no test framework. */
final class Check {
    private Check() {}

    static void that(boolean holds, String otherwise, Object... values) {
        if (!holds) {
            throw new AssertionError(otherwise.formatted(values));
        }
    }

    static void same(Object expected, Object actual, String what) {
        that(Objects.equals(expected, actual), "%s: expected %s, got %s", what, expected, actual);
    }
}
