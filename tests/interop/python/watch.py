"""An open Watch stream, and the instances known from it."""

import time
from typing import Any, NamedTuple

import grpc
from callboard.v1 import discovery_pb2, discovery_pb2_grpc, instance_pb2
from fixture import EVENT_TIMEOUT, Arrival, Stream, check


class Seen(NamedTuple):
    key: str
    updated: instance_pb2.Instance | None
    reason: str  # of a removal, else empty
    revision: int
    at: float


class Watch:
    """Checks every message: revisions strictly increase, and no step names an instance twice."""

    def __init__(self, channel: grpc.Channel, before: "Watch | None" = None, **request: Any) -> None:
        """Opens a watch. With a resume token in the request it continues from the state of `before`."""
        self.instances: dict[str, instance_pb2.Instance] = before.instances if before else {}  # by service/id
        self.revision = before.revision if before else 0
        self.token = b""
        self.reset = ""  # reason of the last Reset
        self.notice = 0
        self.changes: list[Seen] = []  # not yet returned by change
        self._pending_snapshot: dict | None = None if before else {}  # None when no snapshot is expected
        self._step: dict[str, Seen] = {}  # changes of an incomplete step
        stub = discovery_pb2_grpc.DiscoveryServiceStub(channel)
        self._stream = Stream(stub.Watch(discovery_pb2.WatchRequest(**request), timeout=120))

    def next(self, within: float = EVENT_TIMEOUT) -> Arrival:
        """Handles and returns one message, or returns the error that ended the stream."""
        arrival = self._stream.next(within)
        if arrival.message is not None:
            kind = arrival.message.WhichOneof("message")
            check(kind, "an empty message")
            getattr(self, f"_{kind}")(getattr(arrival.message, kind), arrival.at)
        return arrival

    def _reset(self, message: discovery_pb2.Reset, _at: float) -> None:
        self.reset = discovery_pb2.ResetReason.Name(message.reason).removeprefix("RESET_REASON_")
        self.revision, self._pending_snapshot = 0, {}

    def _snapshot(self, message: discovery_pb2.Snapshot, _at: float) -> None:
        check(self._pending_snapshot is not None, "a snapshot without a reset before it")
        for instance in message.instances:
            key = f"{instance.service}/{instance.id}"
            check(key not in self._pending_snapshot, f"{key} is in the snapshot twice")
            self._pending_snapshot[key] = instance

    def _synced(self, message: discovery_pb2.Synced, _at: float) -> None:
        if self._pending_snapshot is not None:
            self.instances, self._pending_snapshot = self._pending_snapshot, None
        check(message.revision >= self.revision, f"synced at {message.revision} after {self.revision}")
        self._advance(message)

    def _bookmark(self, message: discovery_pb2.Bookmark, _at: float) -> None:
        check(message.revision > self.revision, f"a bookmark at {message.revision} after {self.revision}")
        self._advance(message)

    def _notice(self, notice: int, _at: float) -> None:
        self.notice = notice

    def _changes(self, message: discovery_pb2.Changes, at: float) -> None:
        """Collects the changes of a step, and applies them once the step is complete."""
        for change in message.changes:
            seen = seen_in(change, at)
            check(seen.key not in self._step, f"{seen.key} is in one step twice")
            check(seen.revision > self.revision, f"{seen.key} changed at {seen.revision}, but the watch is already at {self.revision}")
            self._step[seen.key] = seen
        if not message.revision:
            return
        check(message.revision > self.revision, f"changes at {message.revision} after {self.revision}")
        for seen in self._step.values():
            check(seen.revision <= message.revision, f"{seen.key} changed at {seen.revision}, after its step at {message.revision}")
            if seen.updated is not None:
                self.instances[seen.key] = seen.updated
            else:
                check(seen.key in self.instances, f"{seen.key} is removed, but was not known")
                del self.instances[seen.key]
        self.changes.extend(self._step.values())
        self._step = {}
        self._advance(message)

    def _advance(self, message: Any) -> None:
        check(message.revision and message.resume_token, f"no revision or no resume token in {message}")
        self.revision, self.token = message.revision, message.resume_token

    def synced(self) -> "Watch":
        """Reads up to the next Synced."""
        while True:
            arrival = self.next()
            check(arrival.message is not None, f"before synced: {arrival.error}")
            if arrival.message.HasField("synced"):
                return self

    def change(self, within: float = EVENT_TIMEOUT) -> Seen:
        deadline = time.monotonic() + within
        while not self.changes:
            arrival = self.next(deadline - time.monotonic())
            check(arrival.message is not None, f"while waiting for a change: {arrival.error}")
        return self.changes.pop(0)

    def updated(self, key: str) -> instance_pb2.Instance:
        """Checks that the next change is an update of this instance."""
        seen = self.change()
        check(seen.key == key and seen.updated is not None, f"expected an update of {key}, got {seen}")
        return seen.updated

    def removed(self, key: str, reason: str, within: float = EVENT_TIMEOUT) -> float:
        """Checks that the next change is this removal; returns its time of arrival."""
        seen = self.change(within)
        check(seen.key == key and seen.reason == reason, f"expected {key} to be removed with {reason}, got {seen}")
        return seen.at

    def error(self) -> grpc.RpcError:
        """Returns the error that ends the stream."""
        arrival = self.next()
        check(arrival.error is not None, f"expected an error, got {arrival.message}")
        return arrival.error

    def close(self) -> None:
        self._stream.close()


def seen_in(change: discovery_pb2.Change, at: float) -> Seen:
    if change.HasField("removed"):
        gone = change.removed
        reason = instance_pb2.RemovalReason.Name(gone.reason).removeprefix("REMOVAL_REASON_")
        return Seen(f"{gone.service}/{gone.id}", None, reason, gone.revision, at)
    instance = change.updated
    return Seen(f"{instance.service}/{instance.id}", instance, "", instance.revision, at)
