"""Scenarios on one registry that keeps running. Each begins with the instances that it names."""

import math
import time

from callboard.v1 import instance_pb2

from clients import Client, Counts
from fixture import check
from registry import Service
from world import Difference, World

RATE = 50  # calls a second of a background load

KEEPS_LAST = Difference("The client keeps calling the last backends of a service until new ones are registered.")
FLAT = Difference("The client ignores the weights of localities, and so those of instances.")
WAITS = Difference("A call that has no backend waits for one until its deadline.")


def prepare(world: World, ids: str) -> None:
    """Registers exactly these backends of the service `payments`, and waits until all clients use them."""
    world.payments.become(*world.backends(ids))
    world.fleet.start()
    world.fleet.each(lambda client: client.sees(*ids))


def resolve(world: World) -> None:
    world.payments.become(*world.backends("a"))
    world.fleet.start()

    def first_call(client: Client) -> None:
        # All clients start at the same time, which takes some of them seconds.
        counts = client.call(1, 1, deadline_ms=20_000)
        check(counts.backends == {"a": 1}, f"the first call: {counts}")

    world.fleet.each(first_call)


def check_split(counts: Counts, parts: dict[str, float]) -> str:
    """Compares a split with the expected parts, within five standard deviations of random picks."""
    total = counts.total
    check(not counts.failed and set(counts.backends) == set(parts), f"not only calls of {', '.join(parts)}: {counts}")
    for id, part in parts.items():
        tolerance = 5 * math.sqrt(total * part * (1 - part))
        check(abs(counts.backends[id] - total * part) <= tolerance, f"{id} is off by more than {tolerance:.0f}: {counts}")
    return str(counts)


def even_split(world: World) -> None:
    prepare(world, "abcd")
    calls = 10_000 if world.full else 2_000

    def split(client: Client) -> str:
        world.splits[client.name] = counts = client.call(calls, 8)
        return check_split(counts, dict.fromkeys("abcd", 0.25))

    world.fleet.each(split)


def weighted_split(world: World) -> None:
    prepare(world, "ab")
    world.payments.update("a", weight=3)

    def split(client: Client) -> str | Difference:
        if client.type.flat:
            check_split(client.call(800, 4), {"a": 0.5, "b": 0.5})
            return FLAT
        deadline = time.monotonic() + 10
        while (counts := client.call(200, 4)).backends.get("a", 0) < 120:
            check(time.monotonic() < deadline, f"the weight 3 of a has no effect after 10 s: {counts}")
        return check_split(client.call(800, 4), {"a": 0.75, "b": 0.25})

    world.fleet.each(split)


def add(world: World) -> None:
    prepare(world, "ab")
    world.fleet.each(lambda client: client.start(RATE))
    world.payments.add(world.backend("c"))
    world.fleet.each(lambda client: client.uses("c"))
    world.fleet.each(lambda client: client.stop_without_failures())


def drain(world: World) -> None:
    prepare(world, "abc")
    world.fleet.each(lambda client: client.start(RATE))
    world.fleet.each(lambda client: client.uses("c"))
    world.payments.drain("c")
    world.fleet.each(lambda client: client.stops_using("c"))
    world.fleet.each(lambda client: client.stop_without_failures())


def kill_backend(world: World) -> None:
    """Kills a backend with a check, and counts the failed calls after the registry has published it as UNHEALTHY."""
    prepare(world, "ab")
    killed = world.backend("killed")
    world.payments.add_checked(killed)
    world.fleet.each(lambda client: client.start(RATE))
    world.fleet.each(lambda client: client.uses(killed.id))
    world.kill_backend(killed.id)
    world.payments.wait_until_unhealthy(killed.id)

    def no_more_failures(client: Client) -> str:
        # The registry publishes the removal some milliseconds before the client applies it.
        removed = client.fails_no_more(50)
        client.until(lambda counts: counts.total >= removed.total + 2 * RATE, "2 s of calls")
        stopped = client.stop()
        check(stopped.failed == removed.failed, f"calls failed after the removal: {removed} became {stopped}")
        return f"{removed.failed} failed calls before the removal"

    world.fleet.each(no_more_failures)


def fails_without_backends(client: Client) -> str | Difference:
    error = client.fails(client.type.status_without_backends)
    return WAITS if client.type.status_without_backends == "DEADLINE_EXCEEDED" else error


def scale_to_zero(world: World) -> None:
    prepare(world, "ab")
    world.payments.become()

    def without_backends(client: Client) -> str | Difference:
        if not client.type.keeps_last_backends:
            return fails_without_backends(client)
        counts = client.call(200, 1)
        check(not counts.failed and set(counts.backends) <= {"a", "b"}, f"calls of the last backends: {counts}")
        return KEEPS_LAST

    world.fleet.each(without_backends)
    prepare(world, "cd")


def late_registration(world: World) -> None:
    late = Service(world.memory, "late")
    with world.other_fleet("xds:///late") as fleet:
        fleet.each(fails_without_backends)
        late.become(*world.backends("ab"))
        fleet.each(lambda client: f"used after {client.sees('a', 'b'):.2f} s")
    late.become()


def bad_name(world: World) -> None:
    for target in ("xds:///no%20such%20name", "xds:///a/b"):
        with world.other_fleet(target) as fleet:
            fleet.each(fails_without_backends)


def dual_stack(world: World) -> None:
    dual = Service(world.memory, "dual")
    backend = world.backend("a")
    addresses = [instance_pb2.Address(host=host, port=backend.port) for host in ("127.0.0.1", "::1")]
    dual.add(backend, addresses=addresses)
    with world.other_fleet("xds:///dual") as fleet:
        fleet.each(lambda client: client.sees("a"))
    dual.become()
