package dev.callboard.interop.xds;

import io.grpc.Metadata;
import java.util.List;

/** Settings of the calls of a command. */
record Settings(String method, long deadlineMillis, Metadata headers) {
    static Settings parse(List<String> options) {
        var method = "callboard.interop.Echo/Call";
        long deadlineMillis = 5000;
        var headers = new Metadata();
        for (var option : options) {
            var parts = option.split("=", 2);
            switch (parts[0]) {
                case "method" -> method = parts[1].substring(1); // without the slash
                case "deadline" -> deadlineMillis = Long.parseLong(parts[1]);
                case "header" -> {
                    var header = parts[1].split(":", 2);
                    headers.put(Metadata.Key.of(header[0], Metadata.ASCII_STRING_MARSHALLER), header[1]);
                }
                default -> throw new IllegalArgumentException("invalid option \"%s\"".formatted(option));
            }
        }
        return new Settings(method, deadlineMillis, headers);
    }
}
