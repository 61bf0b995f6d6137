"""Delays from a change in the registry to the calls of a client."""

import time
from dataclasses import dataclass, field

from backends import Backend
from clients import UPDATE_TIMEOUT, Client
from fixture import check
from registry import Service
from world import World

RATE = 400  # calls a second, half of which go to the backend that comes and goes
QUIET = 0.15  # seconds without a call until the last one counts as the last
MIN_CALLS = 10  # calls that a backend gets before it is removed


@dataclass
class Delays:
    """Milliseconds of each repetition."""

    add: list[float] = field(default_factory=list)  # from the Register request to the backend's first call
    remove: list[float] = field(default_factory=list)  # from the Deregister response to the backend's last call


def percentile(values: list[float], percent: int) -> float:
    """Returns the nearest rank."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def measure(world: World, repetitions: int, delays: dict[str, Delays]) -> None:
    """Measures the clients one after the other."""
    for name in world.names:
        service = Service(world.memory, f"figures-{name}")
        service.become(world.backend("a"))
        with world.other_fleet(f"xds:///{service.name}", names=[name]) as fleet:
            fleet.each(lambda client: measure_client(world, client, service, repetitions, delays[client.name]))
        service.become()


def measure_client(world: World, client: Client, service: Service, repetitions: int, delays: Delays) -> str:
    client.sees("a")
    client.start(RATE)
    changing = world.backend("b")
    for _ in range(repetitions):
        changing.reset()
        sent = service.add(changing)
        wait_for_calls(changing, MIN_CALLS)
        delays.add.append((changing.stats().first_ns - sent) / 1e6)
        returned = service.remove(changing.id)
        delays.remove.append(max(0, wait_until_quiet(changing) - returned) / 1e6)
    client.stop_without_failures()
    return f"{repetitions} repetitions"


def wait_for_calls(backend: Backend, calls: int) -> None:
    deadline = time.monotonic() + UPDATE_TIMEOUT
    while backend.stats().calls < calls:
        check(time.monotonic() < deadline, f"backend {backend.id} is not used after {UPDATE_TIMEOUT:.0f} s")
        time.sleep(0.002)


def wait_until_quiet(backend: Backend) -> int:
    """Waits until the calls have ended; returns the Unix time of the last one in nanoseconds."""
    deadline = time.monotonic() + UPDATE_TIMEOUT
    while (last := backend.stats().last_ns) > time.time_ns() - QUIET * 1e9:
        check(time.monotonic() < deadline, f"backend {backend.id} is still used after {UPDATE_TIMEOUT:.0f} s")
        time.sleep(0.02)
    return last
