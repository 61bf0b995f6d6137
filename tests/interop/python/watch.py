"""An open Watch stream, and what its reader holds by it."""

import time
from typing import Any, NamedTuple

import grpc
from callboard.v1 import discovery_pb2, discovery_pb2_grpc, instance_pb2
from world import PATIENCE, Arrival, Stream, check


class Seen(NamedTuple):
    key: str
    updated: instance_pb2.Instance | None
    reason: str  # of a removal
    revision: int
    at: float


class Watch:
    """Checks of every message what holds for all of them: revisions strictly rise, and no step names an instance twice."""

    def __init__(self, channel: grpc.Channel, before: "Watch | None" = None, **request: Any) -> None:
        """With a token in the request, it goes on from `before`."""
        self.held: dict[str, instance_pb2.Instance] = before.held if before else {}  # by service/id
        self.revision = before.revision if before else 0
        self.token = b""
        self.reset = ""  # why, where it was
        self.notice = 0
        self.changes: list[Seen] = []  # not yet asked for
        self._fresh: dict | None = None if before else {}  # a snapshot under way
        self._step: dict[str, Seen] = {}  # whose revision has yet to come
        stub = discovery_pb2_grpc.DiscoveryServiceStub(channel)
        self._stream = Stream(stub.Watch(discovery_pb2.WatchRequest(**request), timeout=120))

    def next(self, within: float = PATIENCE) -> Arrival:
        """Takes one message in, and returns it, or what ended the stream."""
        arrival = self._stream.next(within)
        if arrival.message is not None:
            kind = arrival.message.WhichOneof("message")
            check(kind, "an empty message")
            getattr(self, f"_{kind}")(getattr(arrival.message, kind), arrival.at)
        return arrival

    def _reset(self, message: discovery_pb2.Reset, _at: float) -> None:
        self.reset = discovery_pb2.ResetReason.Name(message.reason).removeprefix("RESET_REASON_")
        self.revision, self._fresh = 0, {}

    def _snapshot(self, message: discovery_pb2.Snapshot, _at: float) -> None:
        check(self._fresh is not None, "a snapshot that nobody announced")
        for instance in message.instances:
            key = f"{instance.service}/{instance.id}"
            check(key not in self._fresh, f"{key} is twice in the snapshot")
            self._fresh[key] = instance

    def _synced(self, message: discovery_pb2.Synced, _at: float) -> None:
        if self._fresh is not None:
            self.held, self._fresh = self._fresh, None
        check(message.revision >= self.revision, f"synced at {message.revision} after {self.revision}")
        self._stand(message)

    def _bookmark(self, message: discovery_pb2.Bookmark, _at: float) -> None:
        check(message.revision > self.revision, f"a bookmark at {message.revision} after {self.revision}")
        self._stand(message)

    def _notice(self, notice: int, _at: float) -> None:
        self.notice = notice

    def _changes(self, message: discovery_pb2.Changes, at: float) -> None:
        """Collects the changes of a step, and applies them once the step is whole."""
        for change in message.changes:
            seen = seen_in(change, at)
            check(seen.key not in self._step, f"{seen.key} is twice in one step")
            check(seen.revision > self.revision, f"{seen.key} changed at {seen.revision}, but the reader stands at {self.revision}")
            self._step[seen.key] = seen
        if not message.revision:
            return
        check(message.revision > self.revision, f"changes at {message.revision} after {self.revision}")
        for seen in self._step.values():
            check(seen.revision <= message.revision, f"{seen.key} changed at {seen.revision}, after its step at {message.revision}")
            if seen.updated is not None:
                self.held[seen.key] = seen.updated
            else:
                check(seen.key in self.held, f"{seen.key} is gone, but never was")
                del self.held[seen.key]
        self.changes.extend(self._step.values())
        self._step = {}
        self._stand(message)

    def _stand(self, message: Any) -> None:
        check(message.revision and message.resume_token, f"no place to resume from: {message}")
        self.revision, self.token = message.revision, message.resume_token

    def synced(self) -> "Watch":
        """Reads up to the next Synced."""
        while True:
            arrival = self.next()
            check(arrival.message is not None, f"before synced: {arrival.error}")
            if arrival.message.HasField("synced"):
                return self

    def change(self, within: float = PATIENCE) -> Seen:
        deadline = time.monotonic() + within
        while not self.changes:
            arrival = self.next(deadline - time.monotonic())
            check(arrival.message is not None, f"while waiting for a change: {arrival.error}")
        return self.changes.pop(0)

    def updated(self, key: str) -> instance_pb2.Instance:
        """Wants the next change to be an update of this instance."""
        seen = self.change()
        check(seen.key == key and seen.updated is not None, f"wanted an update of {key}, got {seen}")
        return seen.updated

    def removed(self, key: str, reason: str, within: float = PATIENCE) -> float:
        """Wants the next change to be this removal, and tells when it came."""
        seen = self.change(within)
        check(seen.key == key and seen.reason == reason, f"wanted {key} to be {reason}, got {seen}")
        return seen.at

    def error(self) -> grpc.RpcError:
        """Wants the stream to be refused."""
        arrival = self.next()
        check(arrival.error is not None, f"wanted an error, got {arrival.message}")
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
