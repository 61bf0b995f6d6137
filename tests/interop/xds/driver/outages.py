"""Scenarios in which the registry stops while the clients call."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

from clients import Client
from fixture import Failure, check
from registry import Service
from scenarios import RATE
from world import Fleet, World

OUTAGE = 10  # seconds
RECOVERY_TIMEOUT = 60.0  # limit in seconds until clients have reconnected and the registry has settled
WINDOW = 1.0  # seconds; each backend has to be called in one of two windows
RECONNECT_TIME = 4.5  # seconds that the scenario waits for clients; with three windows, less than the time of settling


@contextlib.contextmanager
def even_load(world: World, fleet: Fleet, ids: str, window: float = WINDOW) -> Iterator[None]:
    """Runs a load of all clients. A failed call fails the client, and so does a backend without calls for two windows in seconds."""
    stopped = threading.Event()

    def watch(client: Client) -> None:
        before = client.stats()
        unused_before: set[str] = set()
        while not stopped.wait(window):
            now = client.stats()
            # On a loaded machine, a window may have too few calls to tell.
            if now.total - before.total < 0.8 * window * RATE:
                continue
            unused = {id for id in ids if now.backends.get(id) == before.backends.get(id)}
            # A client that was not scheduled for a while makes all calls of a window at once.
            missing = unused & unused_before
            if missing:
                raise Failure(f"no call of {', '.join(sorted(missing))} for {2 * window} s; counts before {before}, and now {now}")
            before, unused_before = now, unused

    def stop(client: Client) -> None:
        counts = client.stop()
        world.restart_failures[client.name] += counts.failed
        check(not counts.failed, f"calls failed: {counts}")

    fleet.each(lambda client: client.start(RATE))
    fleet.each(lambda client: client.until(lambda counts: set(counts.backends) == set(ids), "a call of each backend"))
    watching = threading.Thread(target=fleet.each, args=(watch,))
    watching.start()
    try:
        yield
    finally:
        stopped.set()
        watching.join()
        fleet.each(stop)


def check_restart(world: World, fleet: Fleet, service: Service, restart: Callable[[], None]) -> None:
    """Restarts the registry of a service with the instances a to d, and then adds e."""
    fleet.each(lambda client: client.sees(*"abcd"))
    with even_load(world, fleet, "abcd"):
        restart()
        began = time.monotonic()
        service.add(world.backend("e"))

        def uses_new_backend(client: Client) -> str:
            client.uses("e", RECOVERY_TIMEOUT)
            return f"added backend used {time.monotonic() - began:.1f} s after the restart"

        fleet.each(uses_new_backend)
    service.remove("e")


def restart_in_memory(world: World) -> None:
    """Restarts a registry that loses all registrations. One instance registers again after the clients have reconnected."""

    def restart(stop: Callable[[], None]) -> None:
        with world.payments.paused_renewal("d"):
            stop()
            world.memory.start()
            world.payments.wait_until_registered(*"abc")
            world.fleet.wait_for_streams(RECONNECT_TIME)
            time.sleep(3 * WINDOW)

    renew(world, "abcd")
    for stop in (world.memory.stop, world.memory.kill):
        check_restart(world, world.fleet, world.payments, lambda: restart(stop))


def restart_on_disk(world: World) -> None:
    with tempfile.TemporaryDirectory(dir=world.scratch) as directory:
        registry = world.new_registry("--data-dir", directory)
        try:
            service = Service(registry, "payments")
            service.become(*world.backends("abcd"))
            with world.other_fleet("xds:///payments", registry) as fleet:
                for stop in (registry.stop, registry.kill):
                    check_restart(world, fleet, service, lambda: (stop(), registry.start()))
        finally:
            registry.kill()


def outage(world: World) -> None:
    """Stops the registry for some time, during which a backend is started."""
    renew(world, "abcd")
    world.fleet.each(lambda client: client.sees(*"abcd"))
    with even_load(world, world.fleet, "abcd"):
        world.memory.stop()
        world.payments.renew(world.backend("e"))
        time.sleep(OUTAGE)
        world.memory.start()
        world.payments.wait_until_registered(*"abcde")
        world.fleet.each(lambda client: client.uses("e", RECOVERY_TIMEOUT))


def renew(world: World, ids: str) -> None:
    """Makes the backends the only ones of `payments`, with programs that renew their leases."""
    world.payments.become()
    for backend in world.backends(ids):
        world.payments.renew(backend)
    world.payments.wait_until_registered(*ids)
    world.fleet.start()
