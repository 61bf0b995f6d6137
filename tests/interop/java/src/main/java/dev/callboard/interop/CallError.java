package dev.callboard.interop;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.List;
import java.util.concurrent.Callable;

/** Error of a failed call: its status, and the google.rpc details that the contract adds to every error. */
record CallError(Status.Code code, String message, List<Any> details) {
    static CallError of(Throwable error) {
        var status = StatusProto.fromThrowable(error);
        Check.that(status != null, "not a gRPC error: %s", error);
        var code = Status.fromCodeValue(status.getCode()).getCode();
        return new CallError(code, status.getMessage(), status.getDetailsList());
    }

    /** Makes a call that must fail with this code. */
    static CallError expect(Status.Code code, Callable<?> call) throws Exception {
        try {
            call.call();
        } catch (StatusRuntimeException error) {
            return of(error).checked(code);
        }
        throw new AssertionError("expected %s, but the call succeeded".formatted(code));
    }

    CallError checked(Status.Code expected) throws InvalidProtocolBufferException {
        Check.same(expected, code, "code of \"" + message + "\"");
        Check.same("callboard.dev", detail(ErrorInfo.class).getDomain(), "domain of ErrorInfo");
        return this;
    }

    /** Returns the detail of this type, which must be present. */
    <T extends Message> T detail(Class<T> type) throws InvalidProtocolBufferException {
        for (Any any : details) {
            if (any.is(type)) {
                return any.unpack(type);
            }
        }
        throw new AssertionError("\"%s\" has no detail %s, only %s".formatted(message, type.getSimpleName(), details));
    }

    void checkFieldViolation(String field) throws InvalidProtocolBufferException {
        var fields = detail(BadRequest.class).getFieldViolationsList().stream()
                .map(BadRequest.FieldViolation::getField)
                .toList();
        Check.that(fields.contains(field), "BadRequest names %s, not \"%s\"", fields, field);
    }
}
