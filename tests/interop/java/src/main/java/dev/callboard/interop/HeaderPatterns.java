package dev.callboard.interop;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.regex.Pattern;

/** Checks that java.util.regex matches the values of headers as the registry does. */
final class HeaderPatterns {
    private HeaderPatterns() {}

    static void match() throws IOException {
        for (String line : Files.readAllLines(Path.of(System.getenv("HEADER_PATTERNS")))) {
            String[] columns = line.split("\t", -1);
            Check.same(3, columns.length, "columns of " + line);
            boolean matches = Pattern.compile(columns[2]).matcher(columns[1]).matches();
            Check.same(columns[0].equals("match"), matches, "%s matches %s".formatted(columns[2], columns[1]));
        }
    }
}
