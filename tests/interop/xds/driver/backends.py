"""Backends: gRPC servers that answer each call with their id."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from callboard.v1 import instance_pb2

from lines import LineProcess

ANSWER_TIMEOUT = 5.0


class BackendStats(NamedTuple):
    """Counts since the last reset, except for the streams. Times are Unix times in nanoseconds."""

    calls: int
    failed: int  # of these calls
    first_ns: int
    last_ns: int
    busy_ns: int  # sum of the times of the calls
    connections: int  # accepted TCP connections
    streams: int  # open now
    methods: dict[str, dict[str, int]]  # by method: `calls`, and the `connections` that they came on


class Backend:
    def __init__(self, program: str, id: str, log: Path) -> None:
        self.id = id
        self._process = LineProcess(f"backend {id}", [program, id], log)
        self.port: int = self._process.next(ANSWER_TIMEOUT)["port"]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def labels(self) -> dict[str, Any]:
        """Fields of the registration. The id `v2-z1-a` has a version and a zone."""
        if not (match := re.match(r"(v\d)-(z\d)", self.id)):
            return {}
        return {"metadata": {"version": match[1]}, "locality": instance_pb2.Locality(region="r1", zone=match[2])}

    def stats(self) -> BackendStats:
        return BackendStats(**self._process.ask("stats", ANSWER_TIMEOUT))

    def reset(self) -> None:
        self._process.ask("reset", ANSWER_TIMEOUT)

    def delay(self, milliseconds: int) -> None:
        """Delays each response from now on."""
        self._process.ask(f"delay {milliseconds}", ANSWER_TIMEOUT)

    def fail(self, percent: float, status: str = "UNAVAILABLE") -> None:
        """Fails this part of the calls, chosen at random, from now on."""
        self._process.ask(f"fail {percent} {status}", ANSWER_TIMEOUT)

    def kill(self) -> None:
        self._process.kill()
