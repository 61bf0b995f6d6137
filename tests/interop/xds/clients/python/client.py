"""A grpcio program that knows nothing of Callboard. It takes commands on stdin, one a line, and prints JSON lines. The README
of the suites has the commands."""

import collections
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

METHOD = "/callboard.interop.Echo/Call"
CALL_TIMEOUT = 5.0
MAX_ERROR_TEXT = 200
MAX_ERRORS = 20


class Tally:
    """Calls by backend, and failed calls by error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._backends: collections.Counter[str] = collections.Counter()
        self._errors: collections.Counter[str] = collections.Counter()

    def add(self, call: Any) -> None:
        """Counts a call that has ended."""
        error = call.exception()
        with self._lock:
            if error is None:
                self._backends[call.result().decode()] += 1
                return
            text = f"{call.code().name}: {call.details()}"[:MAX_ERROR_TEXT]
            if text in self._errors or len(self._errors) < MAX_ERRORS:
                self._errors[text] += 1

    def print(self, event: str) -> None:
        with self._lock:
            emit({"event": event, "backends": self._backends, "errors": self._errors})


class Load:
    """A background load of a fixed rate."""

    def __init__(self, call: grpc.UnaryUnaryMultiCallable, rate: int) -> None:
        self.tally = Tally()
        self._call, self._rate = call, rate
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
            self._call.future(b"", timeout=CALL_TIMEOUT).add_done_callback(self._done)

    def _done(self, call: Any) -> None:
        self.tally.add(call)
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


def call_many(call: grpc.UnaryUnaryMultiCallable, calls: int, parallel: int) -> None:
    tally = Tally()

    def once(_: int) -> None:
        tally.add(call.future(b"", timeout=CALL_TIMEOUT))  # exception() waits for the end

    with ThreadPoolExecutor(parallel) as callers:
        list(callers.map(once, range(calls)))
    tally.print("called")


def main() -> int:
    channel = grpc.insecure_channel(sys.argv[1])
    call = channel.unary_unary(METHOD)
    emit({"event": "ready", "client": f"grpcio {grpc.__version__}"})
    load: Load | None = None
    for line in sys.stdin:
        match line.split():
            case ["call", calls, parallel]:
                call_many(call, int(calls), int(parallel))
            case ["start", rate] if load is None:
                load = Load(call, int(rate))
            case ["stats"] if load:
                load.tally.print("stats")
            case ["stop"] if load:
                load.stop()
                load.tally.print("stopped")
                load = None
            case ["quit"]:
                break
            case _:
                print(f"invalid command {line!r}", file=sys.stderr)
                return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
