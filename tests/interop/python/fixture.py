"""Connections, streams with deadlines, and heartbeats for the steps."""

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

EVENT_TIMEOUT = 5.0  # limit in seconds for an event that is expected immediately
TOLERANCE = 0.1  # allowed measurement error of the client, in seconds
VICTIM_GRACE = 0.3  # disconnect_grace of the process that is killed, in seconds


class Failure(Exception):
    """A failed check of a step."""


def check(condition: Any, message: str) -> None:
    if not condition:
        raise Failure(message)


def connect(address: str) -> grpc.Channel:
    # Without a pool of its own, a second channel to the same address shares the connection of the first.
    return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


def boot_of(service: str, id: str, ttl: float, **fields: Any) -> registry_pb2.RegisterRequest:
    """Returns a registration with a new boot id, as a newly started program sends it."""
    request = registry_pb2.RegisterRequest(service=service, id=id, boot_id=uuid.uuid4().hex, ttl=duration(ttl), **fields)
    if not request.addresses:
        request.addresses.add(host="127.0.0.1", port=9000)
    return request


class Arrival(NamedTuple):
    message: Any  # None at the end of the stream
    error: grpc.RpcError | None
    at: float


class Stream:
    """Responses of a streaming call, each with a deadline."""

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

    def next(self, within: float = EVENT_TIMEOUT) -> Arrival:
        try:
            return self._arrivals.get(timeout=max(within, 0.001))
        except queue.Empty:
            raise Failure(f"no message on the stream within {within:.1f} s") from None

    def close(self) -> None:
        self._call.cancel()
        self._reader.join()


class Renewal(NamedTuple):
    sent: float
    answered: float
    reports: list


class Heartbeats:
    """Renews any number of leases on one stream."""

    def __init__(self, channel: grpc.Channel, *leases: bytes) -> None:
        self._requests: queue.SimpleQueue = queue.SimpleQueue()
        self.answers = Stream(registry_pb2_grpc.RegistryServiceStub(channel).KeepAlive(iter(self._requests.get, None)))
        self._lock = threading.Lock()  # held during a whole renewal, so that no later one includes a dropped lease
        self._leases = list(leases)
        self._last: Renewal | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error: Exception | None = None  # the failure that ended the thread

    def renew(self) -> Renewal:
        """Sends one message for all leases and waits for its response."""
        with self._lock:
            sent = time.monotonic()
            heartbeats = [registry_pb2.Heartbeat(lease_id=lease) for lease in self._leases]
            self._requests.put(registry_pb2.KeepAliveRequest(heartbeats=heartbeats))
            answer = self.answers.next()
            check(answer.error is None and answer.message, f"the heartbeat stream has ended: {answer.error}")
            check(not answer.message.notice, f"unexpected notice {answer.message.notice}")
            reports = list(answer.message.leases)
            check([r.lease_id for r in reports] == self._leases, f"the reports {reports} do not match the heartbeats {heartbeats}")
            self._last = Renewal(sent, answer.at, reports)
            return self._last

    def state(self, lease: bytes) -> str:
        """Renews this lease alone and returns its state."""
        self._leases = [lease]
        return state_of(self.renew().reports[0])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(2 * EVENT_TIMEOUT)
        check(self.error is None, f"the heartbeats stopped early: {self.error}")

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.3):
                for report in self.renew().reports:
                    check(state_of(report) == "HELD", f"a renewed lease is {state_of(report)}")
        except Exception as error:
            self.error = error

    def add(self, lease: bytes) -> None:
        with self._lock:
            self._leases.append(lease)

    def drop(self, lease: bytes) -> Renewal:
        """Excludes a lease from later renewals; returns the last renewal."""
        with self._lock:
            self._leases.remove(lease)
            return self._last


def state_of(report: registry_pb2.LeaseReport) -> str:
    return registry_pb2.LeaseState.Name(report.state).removeprefix("LEASE_STATE_")


class Fixture:
    """State that the steps share."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.writer = connect(server.grpc)  # for registrations and heartbeats
        self.reader = connect(server.grpc)  # for watches
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
        check(len(answer.lease_id) == 16, f"the lease id has {len(answer.lease_id)} bytes, not 16")
        return answer

    def update(self, service: str, id: str, lease_id: bytes = b"", **fields: Any) -> Any:
        request = registry_pb2.UpdateInstanceRequest(
            service=service, id=id, lease_id=lease_id, update_mask=FieldMask(paths=fields), **fields
        )
        return self.registry.UpdateInstance(request).instance

    def deregister(self, service: str, id: str) -> None:
        answer = self.registry.Deregister(registry_pb2.DeregisterRequest(service=service, id=id))
        check(answer.removed, f"{service}/{id} was not registered")


class Unary:
    """Stub whose calls have a deadline and raise CallFailed."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def __getattr__(self, method: str) -> Callable[[Any], Any]:
        def call(request: Any) -> Any:
            try:
                return getattr(self._stub, method)(request, timeout=EVENT_TIMEOUT)
            except grpc.RpcError as error:
                raise CallFailed(method, error) from error

        return call


class CallFailed(Failure):
    def __init__(self, method: str, error: grpc.RpcError) -> None:
        super().__init__(f"{method}: {error.code().name}: {error.details()}")
        self.error = error


def victim(address: str) -> None:
    """Runs the child process that a step kills: registers, prints a line, and sends heartbeats until then."""
    channel = connect(address)
    request = boot_of("victims", "v-1", 10, disconnect_grace=duration(VICTIM_GRACE))
    heartbeats = Heartbeats(channel, registry_pb2_grpc.RegistryServiceStub(channel).Register(request).lease_id)
    heartbeats.renew()
    print("held", flush=True)
    heartbeats.start()
    threading.Event().wait()
