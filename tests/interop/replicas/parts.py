"""What the programs of this suite share: groups of xDS clients, backends, and observers beside them."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from backends import Backend
from fixture import Failure, check
from world import Fleet, Result

from cluster import Servers
from observers import SERVICE, Observer

PROGRAMS = Path(os.environ["REPLICAS_PROGRAMS"])
WINDOW = 5.0  # seconds in which each backend has to be called
ORPHAN_TIME = 32.0  # seconds after the end of a replica in which others may remove what it held
BEGAN = time.monotonic()


def backend(scratch: Path, id: str) -> Backend:
    return Backend(str(PROGRAMS / "backend"), id, scratch / "backends.log")


class Part:
    """Processes of xDS clients with one way to name the replicas. `Fleet` and `even_load` take it for a world."""

    def __init__(self, title: str, servers: Servers, names: list[str]) -> None:
        self.title = title
        self.names = names
        self.versions: dict[str, str] = {}
        self.results = {name: Result() for name in names}
        self.restart_failures = dict.fromkeys(names, 0)
        self.fleet = Fleet(self, servers, f"xds:///{SERVICE}", names)

    def uses(self, id: str, within: float) -> None:
        """Waits until all clients call a new backend; notes the time that it took."""
        began = time.monotonic()
        self.fleet.each(lambda client: f"{id} used after {client.uses(id, within) and time.monotonic() - began:.1f} s")


@contextlib.contextmanager
def observed(observers: list[Observer]) -> Iterator[None]:
    """Runs observers beside a block, and fails with the reasons of all that failed, and of the block."""
    reasons = []
    for observer in observers:
        observer.start()
    try:
        yield
    except Failure as failure:
        reasons.append(str(failure))
    for observer in observers:
        observer.end()
    reasons += [observer.failure for observer in observers if observer.failure]
    check(not reasons, "\n".join(reasons))


def step(title: str) -> None:
    print(f"--- {title} ({time.monotonic() - BEGAN:.0f} s)", flush=True)
