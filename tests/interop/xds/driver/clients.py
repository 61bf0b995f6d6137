"""The clients under test, and the commands that they take."""

import tempfile
import time
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from fixture import Failure, check
from lines import LineProcess
from registry import Registry

START_TIMEOUT = 30.0
CALL_TIMEOUT = 180.0
# Limit in seconds until a client uses a new set of backends. C-core 1.51 reads its stream every five seconds while its calls
# fail at once, and needs several reads.
UPDATE_TIMEOUT = 60.0
ECHO = "/callboard.interop.Echo"  # the service that the clients call
POLL = 0.02  # interval in seconds between requests for the counts of a load, and between calls that fail


class TlsSupport(Enum):
    """TLS of a client towards a registry."""

    NONE = 0
    SERVER = 1  # the client has no certificate
    MUTUAL = 2


@dataclass(frozen=True)
class ClientType:
    """A program in clients/, and its known differences."""

    bootstrap: str  # argument of `callboard xds bootstrap --for`; start.py of Envoy takes the registry from it
    load_reports: str | None = None  # library in metrics of load reports; None: the client reports no load
    keeps_last_backends: bool = False  # goes on calling the last backends of a service that has none left
    flat: bool = False  # calls all instances of the best priority alike: ignores weights, and has no ring hash
    least_request: bool = False
    ring_hash: bool = True
    outlier_detection: bool = True
    max_requests: bool = True
    timeout: bool = True
    late_timeouts: bool = False  # a timeout may end calls up to a second late
    shed: bool = True
    reads_in_calls: bool = False  # reads updates at once only while a call waits for its response
    max_streams: int | None = None  # maximum number of streams and calls that are open at a time; others wait
    reconnects: bool = False  # connects anew to all instances at each changed resource
    tls: TlsSupport = TlsSupport.NONE
    native_resolver: bool = False  # needs GRPC_DNS_RESOLVER=native: its own resolver answers only while calls wait
    status_without_backends: str = "UNAVAILABLE"


CLIENT_TYPES = {
    "go": ClientType("go", load_reports="go", least_request=True, tls=TlsSupport.MUTUAL),
    "go-old": ClientType("go", load_reports="go", status_without_backends="DEADLINE_EXCEEDED"),
    "python": ClientType("python", load_reports="core", late_timeouts=True, tls=TlsSupport.MUTUAL),
    "python-old": ClientType("python", load_reports="core", late_timeouts=True, ring_hash=False, reads_in_calls=True, native_resolver=True),
    "java": ClientType("java", outlier_detection=False, load_reports="java", keeps_last_backends=True, least_request=True, tls=TlsSupport.SERVER),
    "node": ClientType("node", load_reports="node", reconnects=True),
    "ruby": ClientType("ruby", load_reports="core", late_timeouts=True, ring_hash=False),
    "cpp": ClientType("cpp", load_reports="core", late_timeouts=True, ring_hash=False),
    "rust": ClientType(
        "rust",
        flat=True,
        least_request=True,
        ring_hash=False,
        outlier_detection=False,
        max_requests=False,
        timeout=False,
        shed=False,
        status_without_backends="DEADLINE_EXCEEDED",
        tls=TlsSupport.MUTUAL,
    ),
    "go-1.44": ClientType("go", load_reports="go", status_without_backends="DEADLINE_EXCEEDED"),
    "node-1.14.0": ClientType("node", load_reports="node", reconnects=True),
    "envoy": ClientType("go", least_request=True, max_streams=1_024, tls=TlsSupport.MUTUAL),
    "envoy-delta": ClientType("go", least_request=True, max_streams=1_024, tls=TlsSupport.MUTUAL),
}


FAILED = "failed"  # key of the times of failed calls


@dataclass
class Counts:
    """Calls by backend, and failed calls by error."""

    backends: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    ms: dict[str, list[float]] = field(default_factory=dict)  # times of the calls by backend

    @property
    def times(self) -> list[float]:
        """Times of the calls that succeeded, in milliseconds."""
        return [time for id, times in self.ms.items() if id != FAILED for time in times]

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def total(self) -> int:
        return sum(self.backends.values()) + self.failed

    def __str__(self) -> str:
        split = ", ".join(f"{id} {calls}" for id, calls in sorted(self.backends.items()))
        return f"{split or 'no call succeeded'}{f'; failed: {self.errors}' if self.errors else ''}"


def words(method: str | None = None, deadline_ms: int | None = None, headers: dict[str, str] | None = None) -> str:
    """Returns settings of calls as the words of a command."""
    options = [f"method={method}"] if method else []
    options += [f"deadline={deadline_ms}"] if deadline_ms else []
    options += [f"header={name}:{value}" for name, value in (headers or {}).items()]
    return "".join(f" {option}" for option in options)


class Client:
    """One process of a client, with one channel to one target."""

    def __init__(self, name: str, target: str, registry: Registry, zone: str | None = None) -> None:
        self.name = name
        self.type = CLIENT_TYPES[name]
        scratch = registry.scratch
        with tempfile.NamedTemporaryFile("w", suffix=".json", prefix=f"{name}-", dir=scratch, delete=False) as file:
            locality = ["--locality", f"r1/{zone}"] if zone else []
            file.write(registry.bootstrap(self.type.bootstrap, "--node-id", name, *locality))
        start = Path(__file__).parent.parent / "clients" / name / "start"
        environment = {**registry.environment, "GRPC_XDS_BOOTSTRAP": file.name}
        if self.type.native_resolver:
            environment["GRPC_DNS_RESOLVER"] = "native"
        self._process = LineProcess(name, [str(start), target], scratch / f"{name}.log", environment)

    def ready(self) -> str:
        """Waits until the program is ready; returns the name and version of its library."""
        return self._process.next(START_TIMEOUT)["client"]

    def call(self, calls: int, parallel: int = 4, **options: Any) -> Counts:
        return self._counts("called", f"call {calls} {parallel}{words(**options)}")

    def start(self, rate: int, **options: Any) -> None:
        self._process.send(f"start {rate}{words(**options)}")

    def park(self, streams: int, method: str = f"{ECHO}/Park", **options: Any) -> Counts:
        """Opens streams, which stay open until `unpark`."""
        return self._counts("parked", f"park {streams}{words(method=method, **options)}")

    def unpark(self) -> None:
        self._counts("unparked", "unpark")

    def stats(self) -> Counts:
        return self._counts("stats", "stats")

    def stop(self) -> Counts:
        return self._counts("stopped", "stop")

    def end(self) -> None:
        self._process.end()

    def _counts(self, event: str, command: str) -> Counts:
        answer = self._process.ask(command, CALL_TIMEOUT)
        check(answer.get("event") == event, f"`{command}` was answered with {answer}")
        return Counts(answer["backends"], answer["errors"], answer.get("ms", {}))

    def sees(self, *ids: str, within: float = UPDATE_TIMEOUT) -> float:
        """Calls until exactly these backends answer, and no call fails; returns the time that it took."""
        began = time.monotonic()
        while True:
            counts = self.call(20 * len(ids), 4)
            if not counts.failed and set(counts.backends) == set(ids):
                return time.monotonic() - began
            if counts.failed:
                time.sleep(POLL)
            if time.monotonic() > began + within:
                raise Failure(f"not only {', '.join(ids)} used after {within:.0f} s: {counts}")

    def fails(self, status: str, within: float = UPDATE_TIMEOUT) -> str:
        """Calls until each call fails, and at once unless the status is a timeout; returns an error, which has this status."""
        deadline = time.monotonic() + within
        while True:
            began = time.monotonic()
            counts = self.call(4, 4)
            took = time.monotonic() - began
            # The first call of a program may be slow.
            if not counts.backends and (took < 2 or status == "DEADLINE_EXCEEDED"):
                wrong = [error for error in counts.errors if not error.startswith(status)]
                check(not wrong, f"the status is not {status}: {wrong}")
                return next(iter(counts.errors))
            check(time.monotonic() < deadline, f"calls do not fail at once after {within:.0f} s, but in {took:.1f} s: {counts}")

    def until(self, condition: Any, what: str, within: float = UPDATE_TIMEOUT) -> Counts:
        """Reads the counts of the load until the condition holds."""
        deadline = time.monotonic() + within
        while True:
            counts = self.stats()
            if condition(counts):
                return counts
            check(time.monotonic() < deadline, f"{what} not within {within:.0f} s: {counts}")
            time.sleep(POLL)

    def uses(self, id: str, within: float = UPDATE_TIMEOUT) -> Counts:
        return self.until(lambda counts: id in counts.backends, f"a call of {id}", within)

    def uses_again(self, id: str, within: float = UPDATE_TIMEOUT) -> None:
        """Waits for a further call of this backend."""
        before = self.stats().backends.get(id, 0)
        self.until(lambda counts: counts.backends.get(id, 0) > before, f"another call of {id}", within)

    def fails_no_more(self, calls: int, within: float = UPDATE_TIMEOUT) -> Counts:
        """Waits until this number of calls in a row have succeeded; returns the counts before them."""
        last = self.stats()

        def succeeded(counts: Counts) -> bool:
            nonlocal last
            if counts.failed != last.failed:
                last = counts
            return counts.total >= last.total + calls

        self.until(succeeded, f"{calls} successful calls in a row", within)
        return last

    def stops_using(self, id: str, within: float = UPDATE_TIMEOUT) -> None:
        """Waits until 50 calls in a row went to other backends."""
        last = self.stats()

        def unused(counts: Counts) -> bool:
            nonlocal last
            if counts.backends.get(id) != last.backends.get(id):
                last = counts
            return counts.total >= last.total + 50

        self.until(unused, f"the end of the calls of {id}", within)

    def stop_without_failures(self) -> Counts:
        counts = self.stop()
        check(not counts.failed, f"calls failed: {counts}")
        return counts
