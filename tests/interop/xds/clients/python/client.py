"""A grpcio program that knows nothing of Callboard. It takes commands on stdin, one a line, and prints JSON lines. The README
of the suites has the commands."""

import collections
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

MAX_ERROR_TEXT = 200
MAX_ERRORS = 20


class Settings:
    """Settings of the calls of a command."""

    def __init__(self, options: list[str]) -> None:
        self.method, self.deadline = "/callboard.interop.Echo/Call", 5.0
        self.headers: list[tuple[str, str]] = []
        for option in options:
            name, value = option.split("=", 1)
            match name:
                case "method":
                    self.method = value
                case "deadline":
                    self.deadline = int(value) / 1000
                case "header":
                    self.headers.append(tuple(value.split(":", 1)))
                case _:
                    sys.exit(f"invalid option {option!r}")


class Tally:
    """Calls by backend, and failed calls by error, with their times."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._backends: collections.Counter[str] = collections.Counter()
        self._errors: collections.Counter[str] = collections.Counter()
        self._times: dict[str, list[float]] = collections.defaultdict(list)  # milliseconds, by backend

    def add(self, began: float, response: bytes | None, call: Any) -> None:
        """Counts a call that has ended, or a stream with its first response. Without a response, it has failed."""
        took = round((time.monotonic() - began) * 1000, 3)
        with self._lock:
            if response is not None:
                self._backends[response.decode()] += 1
                self._times[response.decode()].append(took)
                return
            self._times["failed"].append(took)
            text = f"{call.code().name}: {call.details()}"[:MAX_ERROR_TEXT]
            if text in self._errors or len(self._errors) < MAX_ERRORS:
                self._errors[text] += 1

    def print(self, event: str, **more: Any) -> None:
        with self._lock:
            emit({"event": event, "backends": self._backends, "errors": self._errors, **more})

    def print_with_times(self, event: str) -> None:
        self.print(event, ms=self._times)


class Calls:
    """Unary calls with the same settings."""

    def __init__(self, channel: grpc.Channel, settings: Settings) -> None:
        self._call, self._settings = channel.unary_unary(settings.method), settings
        self.tally = Tally()

    def start(self, ended: Callable[[], None]) -> grpc.Future:
        """Starts a call; at its end, counts it, and then runs `ended`."""
        began = time.monotonic()

        def done(call: Any) -> None:
            self.tally.add(began, call.result() if call.code() is grpc.StatusCode.OK else None, call)
            ended()

        call = self._call.future(b"", timeout=self._settings.deadline, metadata=self._settings.headers)
        call.add_done_callback(done)
        return call


class Load:
    """A background load of a fixed rate."""

    def __init__(self, calls: Calls, rate: int) -> None:
        self.tally = calls.tally
        self._calls, self._rate = calls, rate
        self._ended = threading.Condition()
        self._open = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0, due - time.monotonic())):
            due = max(due + 1 / self._rate, time.monotonic() - 0.1)
            with self._ended:
                self._open += 1
            self._calls.start(self._done)

    def _done(self) -> None:
        with self._ended:
            self._open -= 1
            self._ended.notify_all()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        with self._ended:
            self._ended.wait_for(lambda: self._open == 0)


def emit(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def call_many(calls: Calls, count: int, parallel: int) -> None:
    free = threading.Semaphore(parallel)
    for _ in range(count):
        free.acquire()
        calls.start(free.release)
    for _ in range(parallel):
        free.acquire()
    calls.tally.print_with_times("called")


def park(channel: grpc.Channel, count: int, settings: Settings) -> list[grpc.Call]:
    """Opens streams one after the other, each after the first response of the one before."""
    open_stream, tally = channel.unary_stream(settings.method), Tally()
    streams = []
    for _ in range(count):
        began = time.monotonic()
        stream = open_stream(b"", metadata=settings.headers)
        try:
            tally.add(began, next(stream), stream)
        except grpc.RpcError:
            tally.add(began, None, stream)
        streams.append(stream)
    tally.print_with_times("parked")
    return streams


def main() -> int:
    channel = grpc.insecure_channel(sys.argv[1])
    emit({"event": "ready", "client": f"grpcio {grpc.__version__}"})
    load: Load | None = None
    streams: list[grpc.Call] = []
    for line in sys.stdin:
        match line.split():
            case ["call", count, parallel, *options]:
                call_many(Calls(channel, Settings(options)), int(count), int(parallel))
            case ["park", count, *options]:
                streams += park(channel, int(count), Settings(options))
            case ["unpark"]:
                for stream in streams:
                    stream.cancel()
                streams.clear()
                Tally().print("unparked")
            case ["start", rate, *options] if load is None:
                load = Load(Calls(channel, Settings(options)), int(rate))
            case ["stats"] if load:
                load.tally.print("stats")
            case ["stop"] if load:
                load.stop()
                load.tally.print_with_times("stopped")
                load = None
            case ["quit"]:
                break
            case _:
                print(f"invalid command {line!r}", file=sys.stderr)
                return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
