"""Shared by the steps: a client, a target of health checks, and assertions."""

import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from collections.abc import Callable

import consul

EVENT_TIMEOUT = 5.0  # limit in seconds for an event that is expected immediately, or after the next probe
LONG_WAIT = "20s"  # a wait that changes have to end early


class Failure(Exception):
    """A failed check of a step."""


def check(condition: Any, message: str) -> None:
    if not condition:
        raise Failure(message)


def same(value: Any, wanted: Any, what: str) -> None:
    check(value == wanted, f"{what}: {value!r}, not {wanted!r}")


def expect_error(kind: type[Exception], text: str, call: Callable[[], Any]) -> None:
    try:
        answer = call()
    except kind as error:
        check(text in str(error), f"{text!r} is not in {error}")
    else:
        raise Failure(f"the call returned {answer!r}, expected {kind.__name__}")


def eventually(what: str, query: Callable[[], Any], wanted: Any) -> None:
    deadline = time.monotonic() + EVENT_TIMEOUT
    while (value := query()) != wanted:
        check(time.monotonic() < deadline, f"{what}: still {value!r}, not {wanted!r}")
        time.sleep(0.025)


class Target:
    """HTTP service whose status code can be set."""

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


class Fixture:
    def __init__(self, server: Any) -> None:
        self.server = server
        host, port = server.http.rsplit(":", 1)
        self.client = consul.Consul(host=host, port=int(port))
        # The package requests does not support a session in two threads, so blocking queries use a client of their own.
        self._blocking_client = consul.Consul(host=host, port=int(port))
        self._pool = futures.ThreadPoolExecutor(max_workers=1)

    def ids(self, service: str, **query: Any) -> list[str]:
        _, entries = self.client.health.service(service, **query)
        return sorted(entry["Service"]["ID"] for entry in entries)

    def passing(self, service: str) -> list[str]:
        return self.ids(service, passing=True)

    def query(self, service: str, index: str | None, wait: str) -> tuple[list[str], str, float]:
        """Returns the passing ids, the index, and the duration of the query."""
        began = time.monotonic()
        at, entries = self._blocking_client.health.service(service, index=index, wait=wait, passing=True)
        check(int(at) > 0, f"index {at!r}")
        return sorted(entry["Service"]["ID"] for entry in entries), at, time.monotonic() - began

    def query_in_background(self, service: str, index: str, wait: str) -> futures.Future:
        """Starts a blocking query in a thread, and returns once it is waiting."""
        answer = self._pool.submit(self.query, service, index, wait)
        try:
            early = answer.result(0.2)
        except futures.TimeoutError:
            return answer
        raise Failure(f"answered immediately, without a change: {early}")
