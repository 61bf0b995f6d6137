"""The processes that the scenarios share, and the results of the clients."""

import contextlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends import Backend
from clients import Client, Counts
from fixture import Failure
from registry import Registry, Service


@dataclass(frozen=True)
class Difference:
    """A known difference of a client from the others, as a sentence for the table."""

    text: str


@dataclass
class Result:
    """Result of one client in one scenario."""

    failure: str | None = None
    difference: Difference | None = None
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        if self.failure:
            return f"FAILED: {self.failure}{notes}"
        return f"known difference: {self.difference.text}{notes}" if self.difference else f"passed{notes}"


class Fleet:
    """One process of each client, all with the same target."""

    def __init__(
        self, world: "World", registry: Registry, target: str, names: list[str], zone: str | None = None
    ) -> None:
        self._world, self._registry, self._target, self._names, self._zone = world, registry, target, names, zone
        self._clients: dict[str, Client] = {}

    def start(self) -> None:
        """Starts the processes that do not run yet."""
        missing = [name for name in self._names if name not in self._clients]
        for name in missing:
            self._clients[name] = Client(name, self._target, self._registry, self._zone)

        def wait(client: Client) -> None:
            if client.name in missing:
                self._world.versions[client.name] = client.ready()

        self.each(wait)

    def each(self, step: Callable[[Client], Any]) -> None:
        """Runs a step for all clients at once, except those that have failed in this scenario.

        The step may return a difference, which the table shows, or a note.
        """
        results = self._world.results
        names = [name for name in self._names if not results[name].failure]

        def run(name: str) -> None:
            try:
                returned = step(self._clients[name])
            except Failure as failure:
                results[name].failure = str(failure)
                return
            if isinstance(returned, Difference):
                results[name].difference = returned
            elif isinstance(returned, str):
                results[name].notes.append(returned)

        if names:
            with ThreadPoolExecutor(len(names)) as pool:
                list(pool.map(run, names))

    def wait_for_streams(self, within: float) -> None:
        """Waits until all clients have a stream to the registry, but not longer than the given time."""
        deadline = time.monotonic() + within
        while self._registry.xds_streams() < len(self._clients) and time.monotonic() < deadline:
            time.sleep(0.1)

    def end(self, name: str) -> None:
        if client := self._clients.pop(name, None):
            client.end()

    def end_all(self) -> None:
        if self._clients:
            with ThreadPoolExecutor(len(self._clients)) as pool:
                list(pool.map(self.end, list(self._clients)))


class World:
    def __init__(self, callboard: str, backend: str, scratch: Path, names: list[str], full: bool) -> None:
        self.names, self.scratch, self.full = names, scratch, full
        self._callboard, self._backend_program = callboard, backend
        self._backends: dict[str, Backend] = {}
        self.versions: dict[str, str] = {}
        self.results: dict[str, Result] = {name: Result() for name in names}
        self.restart_failures: dict[str, int] = dict.fromkeys(names, 0)
        self.splits: dict[str, Counts] = {}
        self.shifted: dict[str, Counts] = {}  # calls during the shift of all calls to another subset
        self.memory = self.new_registry()
        self.payments = Service(self.memory, "payments")
        self.fleet = Fleet(self, self.memory, "xds:///payments", names)

    def number(self, full: int, short: int) -> int:
        """Returns the first number in a full run, else the second."""
        return full if self.full else short

    def new_registry(self, *flags: str) -> Registry:
        return Registry(self._callboard, self.scratch, *flags)

    def backend(self, id: str) -> Backend:
        """Returns the backend with this id, which is started at its first use."""
        if id not in self._backends:
            self._backends[id] = Backend(self._backend_program, id, self.scratch / "backends.log")
        return self._backends[id]

    def kill_backend(self, id: str) -> None:
        self._backends.pop(id).kill()

    def backends(self, ids: Iterable[str]) -> list[Backend]:
        """Returns the backends with these ids; each letter of a text is an id."""
        return [self.backend(id) for id in ids]

    @contextlib.contextmanager
    def other_fleet(
        self, target: str, registry: Registry | None = None, names: list[str] | None = None, zone: str | None = None
    ) -> Iterator[Fleet]:
        """Returns processes with another target or zone, which end with the scenario."""
        fleet = Fleet(self, registry or self.memory, target, self.names if names is None else names, zone)
        try:
            fleet.start()
            yield fleet
        finally:
            fleet.end_all()

    def run(self, title: str, scenario: Callable[["World"], None]) -> dict[str, Result]:
        """Runs a scenario and prints a line for each client."""
        self.results = {name: Result() for name in self.names}
        began = time.monotonic()
        try:
            scenario(self)
        except Exception as error:
            reason = str(error) if isinstance(error, Failure) else traceback.format_exc()
            for result in self.results.values():
                result.failure = result.failure or f"the scenario ended early: {reason}"
        lines = [f"--- {title} ({time.monotonic() - began:.1f} s)"]
        lines += [f"{name:12} {result}" for name, result in self.results.items()]
        print("\n".join(lines), flush=True)
        for name, result in self.results.items():
            if result.failure:
                self.fleet.end(name)  # the next scenario starts another process
        return self.results

    def end(self) -> None:
        self.fleet.end_all()
        self.memory.kill()
