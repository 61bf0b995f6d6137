package dev.callboard.interop.xds;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.concurrent.TimeUnit;

/** Calls of a method whose messages are bytes. */
final class Echo {
    private static final int CALL_TIMEOUT_SECONDS = 5;
    private static final byte[] EMPTY = {};

    private static final MethodDescriptor<byte[], byte[]> METHOD = MethodDescriptor.<byte[], byte[]>newBuilder()
            .setType(MethodDescriptor.MethodType.UNARY)
            .setFullMethodName("callboard.interop.Echo/Call")
            .setRequestMarshaller(new Bytes())
            .setResponseMarshaller(new Bytes())
            .build();

    private final Channel channel;

    Echo(Channel channel) {
        this.channel = channel;
    }

    /** Begins a call; at its end, counts it, and then runs {@code ended}. */
    void call(Tally tally, Runnable ended) {
        var options = CallOptions.DEFAULT.withDeadlineAfter(CALL_TIMEOUT_SECONDS, TimeUnit.SECONDS);
        ClientCalls.asyncUnaryCall(channel.newCall(METHOD, options), EMPTY, new StreamObserver<>() {
            @Override
            public void onNext(byte[] response) {
                tally.add(response);
            }

            @Override
            public void onError(Throwable error) {
                tally.add(Status.fromThrowable(error));
                ended.run();
            }

            @Override
            public void onCompleted() {
                ended.run();
            }
        });
    }

    private static final class Bytes implements MethodDescriptor.Marshaller<byte[]> {
        @Override
        public InputStream stream(byte[] message) {
            return new ByteArrayInputStream(message);
        }

        @Override
        public byte[] parse(InputStream message) {
            try {
                return message.readAllBytes();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }
}
