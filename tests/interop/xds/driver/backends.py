"""Backends: gRPC servers that answer each call with their id."""

from pathlib import Path
from typing import NamedTuple

from lines import LineProcess

ANSWER_TIMEOUT = 5.0


class BackendStats(NamedTuple):
    """Calls since the last reset, and the Unix times of the first and the last, in nanoseconds."""

    calls: int
    first_ns: int
    last_ns: int


class Backend:
    def __init__(self, program: str, id: str, log: Path) -> None:
        self.id = id
        self._process = LineProcess(f"backend {id}", [program, id], log)
        self.port: int = self._process.next(ANSWER_TIMEOUT)["port"]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stats(self) -> BackendStats:
        return BackendStats(**self._process.ask("stats", ANSWER_TIMEOUT))

    def reset(self) -> None:
        self._process.ask("reset", ANSWER_TIMEOUT)

    def kill(self) -> None:
        self._process.kill()
