"""What the scenarios of policies share. An instance `v2-z1-a` has the version v2 and is in the zone z1."""

import math
import time
from collections.abc import Iterable
from typing import Any

from clients import Client, Counts
from fixture import check
from world import Fleet, World

ROLLOUT_TIMEOUT = 60.0  # limit in seconds until all clients have accepted a policy
SETTLE = 1.0  # seconds that a client may take to use what it has accepted
SUBSETS = {version: f'metadata["version"] == "{version}"' for version in ("v1", "v2")}
ONE_EACH = ("v1-z1", "v2-z1")


def prepare(world: World, ids: Iterable[str], **policy: Any) -> None:
    """Registers exactly these backends of `payments`, waits until all clients use them, and then sets the policy."""
    ids = list(ids)
    for backend in world.backends(ids):
        backend.delay(0)
        backend.fail(0)
    world.payments.set_policy()
    world.payments.become(*world.backends(ids))
    world.fleet.start()
    world.fleet.each(lambda client: client.sees(*ids))
    if policy:
        set_policy(world, **policy)


def set_policy(world: World, fleet: Fleet | None = None, **policy: Any) -> None:
    """Sets the policy of `payments`, and waits until all clients use it. A client that does not accept it has failed."""
    fleet = fleet or world.fleet
    world.payments.set_policy(**policy)
    deadline = time.monotonic() + ROLLOUT_TIMEOUT
    while world.payments.unsynced(0.2) and time.monotonic() < deadline:
        fleet.each(read_updates)
    for name, reason in world.payments.unsynced(0).items():
        if name in world.results:
            world.results[name].failure = world.results[name].failure or f"the policy {policy} is not accepted: {reason}"
    time.sleep(SETTLE)


def read_updates(client: Client) -> None:
    if client.type.reads_in_calls:
        client.call(1, 1)


def tolerance(calls: int, part: float) -> float:
    """Returns five standard deviations of the number of calls that a random choice with this probability takes."""
    return 5 * math.sqrt(calls * part * (1 - part))


def check_number(number: int, total: int, part: float, what: str) -> str:
    expected, allowed = total * part, tolerance(total, part)
    check(abs(number - expected) <= allowed, f"{what}: {number} of {total}, not {expected:.0f} ± {allowed:.0f}")
    return f"{what} {number} of {total}"


def by_version(counts: Counts) -> dict[str, int]:
    """Returns the calls by version of the backend."""
    return by_part_of_id(counts, 0)


def by_zone(counts: Counts) -> dict[str, int]:
    """Returns the calls by zone of the backend."""
    return by_part_of_id(counts, 1)


def by_part_of_id(counts: Counts, part: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for id, calls in counts.backends.items():
        key = id.split("-")[part]
        found[key] = found.get(key, 0) + calls
    return found


def check_no_failures(counts: Counts) -> None:
    check(not counts.failed, f"calls failed: {counts}")


def percentile(values: list[float], percent: float) -> float:
    """Returns the nearest rank."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def method_of(client: Client) -> str:
    """Returns a method that only this client calls, so that the backends count its calls apart."""
    return f"/callboard.interop.Echo/{client.name}"
