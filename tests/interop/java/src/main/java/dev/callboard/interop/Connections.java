package dev.callboard.interop;

import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;

/** Opens connections to one server. */
record Connections(String address) {
    /** Opens a channel. It is one HTTP/2 connection, because the server has one address. */
    ManagedChannel open() {
        return Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build();
    }
}
