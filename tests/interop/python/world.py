"""What the steps share: connections, streams with deadlines, heartbeats."""

import queue
import threading
import time
import uuid
from typing import Any, NamedTuple
from collections.abc import Callable

import grpc
from callboard.v1 import discovery_pb2_grpc, registry_pb2, registry_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

PATIENCE = 5.0  # how long anything that should happen at once may take, in seconds
SLACK = 0.1  # what measuring from outside may add
VICTIM_GRACE = 0.3


class Failure(Exception):
    """What a step found to be wrong."""


def check(right: Any, otherwise: str) -> None:
    if not right:
        raise Failure(otherwise)


def connect(address: str) -> grpc.Channel:
    # Without its own pool, a second channel to the same address would share the first one's connection.
    return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


def boot_of(service: str, id: str, ttl: float, **fields: Any) -> registry_pb2.RegisterRequest:
    """A registration as one start of a program sends it."""
    request = registry_pb2.RegisterRequest(service=service, id=id, boot_id=uuid.uuid4().hex, ttl=duration(ttl), **fields)
    if not request.addresses:
        request.addresses.add(host="127.0.0.1", port=9000)
    return request


class Arrival(NamedTuple):
    message: Any  # None at the stream's end
    error: grpc.RpcError | None
    at: float


class Stream:
    """The answers of a streaming call, each to be had within a time."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        error = None
        try:
            for message in self._call:
                self._arrivals.put(Arrival(message, None, time.monotonic()))
        except grpc.RpcError as ended:
            error = ended
        self._arrivals.put(Arrival(None, error, time.monotonic()))

    def next(self, within: float = PATIENCE) -> Arrival:
        try:
            return self._arrivals.get(timeout=max(within, 0.001))
        except queue.Empty:
            raise Failure(f"nothing on the stream within {within:.1f} s") from None

    def close(self) -> None:
        self._call.cancel()
        self._reader.join()


class Beat(NamedTuple):
    sent: float
    answered: float
    reports: list


class Heartbeats:
    """Keeps any number of leases alive on one stream."""

    def __init__(self, channel: grpc.Channel, *leases: bytes) -> None:
        self._requests: queue.SimpleQueue = queue.SimpleQueue()
        self.answers = Stream(registry_pb2_grpc.RegistryServiceStub(channel).KeepAlive(iter(self._requests.get, None)))
        self._lock = threading.Lock()  # held for a whole heartbeat: a lease that was dropped is in no later one
        self._leases = list(leases)
        self._last: Beat | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.wrong: Exception | None = None  # why it stopped by itself

    def beat(self) -> Beat:
        """Sends one message for all leases and waits for its answer."""
        with self._lock:
            sent = time.monotonic()
            heartbeats = [registry_pb2.Heartbeat(lease_id=lease) for lease in self._leases]
            self._requests.put(registry_pb2.KeepAliveRequest(heartbeats=heartbeats))
            answer = self.answers.next()
            check(answer.error is None and answer.message, f"the heartbeat stream has ended: {answer.error}")
            check(not answer.message.notice, f"a notice: {answer.message.notice}")
            reports = list(answer.message.leases)
            check([r.lease_id for r in reports] == self._leases, f"{reports} is no answer to {heartbeats}")
            self._last = Beat(sent, answer.at, reports)
            return self._last

    def one(self, lease: bytes) -> str:
        """Beats for a single lease and tells its state."""
        self._leases = [lease]
        return state_of(self.beat().reports[0])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(2 * PATIENCE)
        check(self.wrong is None, f"the heartbeats stopped early: {self.wrong}")

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.3):
                for report in self.beat().reports:
                    check(state_of(report) == "HELD", f"a lease that was kept alive is {state_of(report)}")
        except Exception as wrong:
            self.wrong = wrong

    def add(self, lease: bytes) -> None:
        with self._lock:
            self._leases.append(lease)

    def drop(self, lease: bytes) -> Beat:
        """Heartbeats a lease no more, and tells of its last time."""
        with self._lock:
            self._leases.remove(lease)
            return self._last


def state_of(report: registry_pb2.LeaseReport) -> str:
    return registry_pb2.LeaseState.Name(report.state).removeprefix("LEASE_STATE_")


class World:
    """What the steps hand on to each other."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.writer = connect(server.grpc)  # registers and heartbeats
        self.reader = connect(server.grpc)  # watches
        self.heartbeats: Heartbeats | None = None
        self.watch: Any = None

    @property
    def registry(self) -> "Unary":
        return Unary(registry_pb2_grpc.RegistryServiceStub(self.writer))

    @property
    def discovery(self) -> "Unary":
        return Unary(discovery_pb2_grpc.DiscoveryServiceStub(self.reader))

    def register(self, request: registry_pb2.RegisterRequest) -> registry_pb2.RegisterResponse:
        answer = self.registry.Register(request)
        check(len(answer.lease_id) == 16, f"a lease of {len(answer.lease_id)} bytes")
        return answer

    def update(self, service: str, id: str, lease_id: bytes = b"", **fields: Any) -> Any:
        request = registry_pb2.UpdateInstanceRequest(
            service=service, id=id, lease_id=lease_id, update_mask=FieldMask(paths=fields), **fields
        )
        return self.registry.UpdateInstance(request).instance

    def deregister(self, service: str, id: str) -> None:
        answer = self.registry.Deregister(registry_pb2.DeregisterRequest(service=service, id=id))
        check(answer.removed, f"{service}/{id} was not there")


class Unary:
    """A stub whose calls have a deadline, and fail in a line."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def __getattr__(self, method: str) -> Callable[[Any], Any]:
        def call(request: Any) -> Any:
            try:
                return getattr(self._stub, method)(request, timeout=PATIENCE)
            except grpc.RpcError as error:
                raise Refused(method, error) from error

        return call


class Refused(Failure):
    def __init__(self, method: str, error: grpc.RpcError) -> None:
        super().__init__(f"{method}: {error.code().name}: {error.details()}")
        self.error = error


def victim(address: str) -> None:
    channel = connect(address)
    request = boot_of("victims", "v-1", 10, disconnect_grace=duration(VICTIM_GRACE))
    heartbeats = Heartbeats(channel, registry_pb2_grpc.RegistryServiceStub(channel).Register(request).lease_id)
    heartbeats.beat()
    print("held", flush=True)
    heartbeats.start()
    threading.Event().wait()
