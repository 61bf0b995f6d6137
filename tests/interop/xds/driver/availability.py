"""Scenarios in which a subset or a zone loses its instances."""

import contextlib
import time
from collections.abc import Iterator

from ads import AdsClient
from clients import UPDATE_TIMEOUT, Client, Counts
from fixture import Failure, check
from policy import (
    ONE_EACH,
    SETTLE,
    SUBSETS,
    by_version,
    by_zone,
    check_no_failures,
    check_number,
    prepare,
    set_policy,
)
from scenarios import KEEPS_LAST, RATE, WAITS
from world import Difference, Fleet, World

ALL_TO_V2 = {"subsets": SUBSETS, "default": {"v2": 100}}
FLAT_ZONES = Difference("The client calls all instances of the first zones alike, whatever the shares of the zones.")


def uses_only(client: Client, version: str, within: float = UPDATE_TIMEOUT) -> None:
    """Reads the counts of the load until 40 calls in a row went to one version."""
    last = client.stats()

    def others_unused(counts: Counts) -> bool:
        nonlocal last
        calls = by_version(counts).get(version, 0) - by_version(last).get(version, 0)
        if calls != counts.total - last.total:
            last = counts
        return counts.total >= last.total + 40

    client.until(others_unused, f"calls of {version} only", within)


def empty_subset_spills(world: World) -> None:
    """If a subset has no instance left, its calls go to the rest of the service, and back. Draining fails no call."""
    prepare(world, ONE_EACH, **ALL_TO_V2)
    world.fleet.each(lambda client: client.start(RATE))
    world.fleet.each(lambda client: uses_only(client, "v2"))
    world.payments.drain("v2-z1")
    world.fleet.each(lambda client: uses_only(client, "v1"))
    world.payments.update("v2-z1", draining=False)
    world.fleet.each(lambda client: uses_only(client, "v2"))
    world.fleet.each(lambda client: client.stop_without_failures() and None)


def killed_subset_spills(world: World) -> None:
    """After `kill -9` of the only instance of a subset, its calls go to the rest of the service; only those in flight fail."""
    prepare(world, ONE_EACH, **ALL_TO_V2)
    world.payments.remove("v2-z1")
    killed = world.backend("v2-z1-k")
    world.payments.add_checked(killed)
    world.fleet.each(lambda client: client.sees("v2-z1-k"))
    world.fleet.each(lambda client: client.start(RATE))
    world.fleet.each(lambda client: uses_only(client, "v2"))
    world.kill_backend(killed.id)
    world.payments.wait_until_unhealthy(killed.id)

    def spilled(client: Client) -> str:
        uses_only(client, "v1")
        before = client.stats()
        client.until(lambda counts: counts.total >= before.total + 2 * RATE, "2 s of calls")
        stopped = client.stop()
        check(stopped.failed == before.failed, f"calls failed after the removal: {before} became {stopped}")
        return f"{stopped.failed} failed calls"

    world.fleet.each(spilled)
    world.payments.remove(killed.id)


SPILLING = "/callboard.interop.Spilling"  # service whose calls go to the rest while their subset is empty


def empty_subset_fails(world: World) -> None:
    """With `empty = "fail"`, calls to a subset without instances fail at once with UNAVAILABLE, and succeed again later. The calls
    of a route that spills do not fail."""
    spilling = {"method": f"{SPILLING}/*", "to": {"v2": 100}, "empty": "spill"}
    prepare(world, ONE_EACH, **ALL_TO_V2, empty="fail", route=[spilling])
    world.payments.drain("v2-z1")

    def fails(client: Client) -> str | Difference:
        if client.type.keeps_last_backends:
            counts = client.call(100, 1)
            check(set(counts.backends) == {"v2-z1"} and not counts.failed, f"calls of the last instance: {counts}")
            return KEEPS_LAST
        error = client.fails(client.type.status_without_backends)
        return WAITS if client.type.status_without_backends == "DEADLINE_EXCEEDED" else error

    def spills(client: Client) -> None:
        deadline = time.monotonic() + UPDATE_TIMEOUT
        while set(by_version(counts := client.call(20, 4, method=f"{SPILLING}/Call"))) != {"v1"}:
            check(time.monotonic() < deadline, f"calls of a route that spills: {counts}")
        check_no_failures(counts)

    world.fleet.each(fails)
    world.fleet.each(spills)
    world.payments.update("v2-z1", draining=False)
    world.fleet.each(lambda client: client.sees("v2-z1") and None)


ZONES = ("z1", "z2", "z3")
PER_ZONE = 4
MIN_STREAMS = 4  # of each zone; the registry compares zones from ten streams on


def expected_shares(routable: dict[str, int]) -> dict[str, float]:
    """Returns the parts of the calls of z1, by zone, if each zone has the same number of clients and had four instances."""
    total = sum(routable.values())
    if routable["z1"] < 2:
        return {zone: count / total for zone, count in routable.items()}
    demand = 1 / len(ZONES)

    def local(zone: str) -> float:
        capacity = routable[zone] / total
        return min(1, capacity / demand, 1.4 * routable[zone] / PER_ZONE)

    rest = 1 - local("z1")
    if rest < 0.05:
        return {"z1": 1.0}
    others = {zone: routable[zone] for zone in ZONES if zone != "z1"}
    spare = {zone: max(0, count / total - demand * local(zone)) for zone, count in others.items()}
    basis = spare if sum(spare.values()) > 0 else others
    return {"z1": local("z1"), **{zone: rest * part / sum(basis.values()) for zone, part in basis.items()}}


@contextlib.contextmanager
def subscribers(world: World, numbers: dict[str, int]) -> Iterator[None]:
    """Subscribes this number of clients without calls in each zone."""
    streams = [
        AdsClient(world.memory.address, "payments", f"{zone}-{number}", zone)
        for zone, count in numbers.items()
        for number in range(count)
    ]
    try:
        for stream in streams:
            stream.wait(lambda stream: stream.assignments, "endpoints")
        yield
    finally:
        for stream in streams:
            stream.close()


def zones(world: World) -> None:
    """Calls stay in the client's zone as far as it has the capacity, spill in proportion, and come back."""
    ids = [f"v1-{zone}-{letter}" for zone in ZONES for letter in "abcd"]
    world.payments.set_policy()
    world.payments.become(*world.backends(ids))
    world.fleet.end_all()  # so that no client without a zone is subscribed
    each = max(MIN_STREAMS, len(world.names))
    calls = world.number(10_000, 1_200)
    with (
        world.other_fleet("xds:///payments", zone="z1") as fleet,
        subscribers(world, {"z1": each - len(world.names), "z2": each, "z3": each}),
    ):
        fleet.each(lambda client: client.sees(*ids) and None)
        set_policy(world, fleet, zone="prefer")

        def check_zones(routable: dict[str, int], what: str) -> None:
            expected = {zone: part for zone, part in expected_shares(routable).items() if part}

            def check_shares(client: Client) -> str | Difference:
                if not client.type.reconnects:
                    return compare(client)
                # The registry sends grpc-js changed weights at most every ten seconds.
                deadline = time.monotonic() + WEIGHT_INTERVAL
                while True:
                    try:
                        return compare(client)
                    except Failure:
                        if time.monotonic() > deadline:
                            raise

            def compare(client: Client) -> str | Difference:
                counts = client.call(calls, 8)
                check_no_failures(counts)
                used = by_zone(counts)
                check(set(used) <= set(expected), f"{what}: zones of {counts}, not those of {expected}")
                if client.type.flat:
                    instances = sum(routable[zone] for zone in expected)
                    for zone in expected:
                        check_number(used.get(zone, 0), calls, routable[zone] / instances, f"{what}, {zone}")
                    return FLAT_ZONES
                found = [check_number(used.get(zone, 0), calls, part, f"{what}, {zone}") for zone, part in expected.items()]
                return "; ".join(found)

            fleet.each(check_shares)

        check_zones({"z1": 4, "z2": 4, "z3": 4}, "balanced")
        for id in ids[:2]:
            world.payments.update(id, draining=True)
        wait_for_zones(fleet, {"z1", "z2", "z3"})
        check_zones({"z1": 2, "z2": 4, "z3": 4}, "half of z1")
        for id in ids[2:4]:
            world.payments.update(id, draining=True)
        wait_for_zones(fleet, {"z2", "z3"})
        check_zones({"z1": 0, "z2": 4, "z3": 4}, "without z1")
        for id in ids[:4]:
            world.payments.update(id, draining=False)
        wait_for_zones(fleet, {"z1"})
        check_zones({"z1": 4, "z2": 4, "z3": 4}, "back")


WEIGHT_INTERVAL = 15.0  # seconds in which a client that connects anew at each change has got the present weights
ZONE_TIMEOUT = 75.0  # limit in seconds for a change of shares, of which some wait for a minute


def wait_for_zones(fleet: Fleet, zones: set[str]) -> None:
    """Calls until exactly these zones are used."""

    def wait(client: Client) -> None:
        deadline = time.monotonic() + ZONE_TIMEOUT
        # Few calls may miss a zone with a share of 1 %.
        while any(set(used := by_zone(counts := client.call(number, 4))) != zones for number in (100, 1_000)):
            check_no_failures(counts)
            check(time.monotonic() < deadline, f"zones {used}, not {zones} after {ZONE_TIMEOUT:.0f} s")
            time.sleep(0.1)

    fleet.each(wait)
    time.sleep(SETTLE)
