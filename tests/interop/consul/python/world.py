"""What the steps share: a client, services whose health can be switched, patience."""

import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from collections.abc import Callable

import consul

PATIENCE = 5.0  # how long anything may take that should happen at once, or at the next probe, in seconds
LONG = "20s"  # a wait that is not to be waited for


class Failure(Exception):
    """What a step found to be wrong."""


def check(right: Any, otherwise: str) -> None:
    if not right:
        raise Failure(otherwise)


def same(value: Any, wanted: Any, what: str) -> None:
    check(value == wanted, f"{what}: {value!r}, not {wanted!r}")


def refused(kind: type[Exception], text: str, call: Callable[[], Any]) -> None:
    try:
        answer = call()
    except kind as refusal:
        check(text in str(refusal), f"{text!r} is not in {refusal}")
    else:
        raise Failure(f"{answer!r}, instead of {kind.__name__}")


def eventually(what: str, ask: Callable[[], Any], wanted: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while (value := ask()) != wanted:
        check(time.monotonic() < deadline, f"{what}: still {value!r}, not {wanted!r}")
        time.sleep(0.025)


class Target:
    """A service whose health is what it is told to be."""

    def __init__(self) -> None:
        self.status = 200
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(target.status)
                self.end_headers()
                self.wfile.write(b"target")

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = server.server_port
        self.url = f"http://127.0.0.1:{self.port}/health"
        threading.Thread(target=server.serve_forever, daemon=True).start()


class World:
    def __init__(self, server: Any) -> None:
        self.server = server
        host, port = server.http.rsplit(":", 1)
        self.client = consul.Consul(host=host, port=int(port))
        # Requests' sessions are no friends of threads: who waits has one of its own.
        self._waiting = consul.Consul(host=host, port=int(port))
        self._pool = futures.ThreadPoolExecutor(max_workers=1)

    def ids(self, service: str, **query: Any) -> list[str]:
        _, entries = self.client.health.service(service, **query)
        return sorted(entry["Service"]["ID"] for entry in entries)

    def passing(self, service: str) -> list[str]:
        return self.ids(service, passing=True)

    def query(self, service: str, index: str | None, wait: str) -> tuple[list[str], str, float]:
        """The passing ids, the index, and how long that took."""
        began = time.monotonic()
        at, entries = self._waiting.health.service(service, index=index, wait=wait, passing=True)
        check(int(at) > 0, f"index {at!r}")
        return sorted(entry["Service"]["ID"] for entry in entries), at, time.monotonic() - began

    def during(self, service: str, index: str, wait: str) -> futures.Future:
        """Asks in the background; what the caller does meanwhile is done once the query hangs."""
        answer = self._pool.submit(self.query, service, index, wait)
        try:
            early = answer.result(0.2)
        except futures.TimeoutError:
            return answer
        raise Failure(f"answered at once, with nothing changed: {early}")
