package dev.callboard.interop.xds;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.concurrent.TimeUnit;

/** Calls with the same settings, whose messages are bytes. */
final class Echo {
    private static final byte[] EMPTY = {};

    private final Channel channel;
    private final Settings settings;

    Echo(Channel channel, Settings settings) {
        this.channel = ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(settings.headers()));
        this.settings = settings;
    }

    /** Begins a call; at its end, counts it, and then runs {@code ended}. */
    void call(Tally tally, Runnable ended) {
        var began = System.nanoTime();
        var options = CallOptions.DEFAULT.withDeadlineAfter(settings.deadlineMillis(), TimeUnit.MILLISECONDS);
        var call = channel.newCall(method(MethodDescriptor.MethodType.UNARY), options);
        ClientCalls.asyncUnaryCall(call, EMPTY, new StreamObserver<>() {
            @Override
            public void onNext(byte[] response) {
                tally.add(began, response);
            }

            @Override
            public void onError(Throwable error) {
                tally.add(began, Status.fromThrowable(error));
                ended.run();
            }

            @Override
            public void onCompleted() {
                ended.run();
            }
        });
    }

    /** Opens a stream, waits for its first response, and counts it. Returns what cancels it. */
    Runnable openStream(Tally tally) {
        var began = System.nanoTime();
        var call = channel.newCall(method(MethodDescriptor.MethodType.SERVER_STREAMING), CallOptions.DEFAULT);
        try {
            tally.add(began, ClientCalls.blockingServerStreamingCall(call, EMPTY).next());
        } catch (StatusRuntimeException error) {
            tally.add(began, error.getStatus());
        }
        return () -> call.cancel("unpark", null);
    }

    private MethodDescriptor<byte[], byte[]> method(MethodDescriptor.MethodType type) {
        return MethodDescriptor.<byte[], byte[]>newBuilder()
                .setType(type)
                .setFullMethodName(settings.method())
                .setRequestMarshaller(new Bytes())
                .setResponseMarshaller(new Bytes())
                .build();
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
