"""Scenarios of splits, routes, timeouts, retries and limits."""

import time

from clients import ECHO, Client, Counts
from fixture import check
from policy import (
    ONE_EACH,
    SUBSETS,
    by_version,
    check_no_failures,
    check_number,
    method_of,
    percentile,
    prepare,
    set_policy,
)
from scenarios import RATE
from world import Difference, World

NO_LIMIT = Difference("The client has no limit of calls.")
LATE_TIMEOUTS = Difference("Calls end up to a second after the timeout: timers of C-core are inexact.")
NO_TIMEOUT = Difference("The client ignores the timeout; the deadlines of calls hold.")
NO_DROPS = Difference("The client drops no calls.")
FOUR = ("v1-z1", "v1-z2", "v2-z1", "v2-z2")


def split(world: World) -> None:
    """Calls go to subsets in proportion to the percentages, within five standard deviations."""
    prepare(world, FOUR)
    calls = world.number(10_000, 1_500)
    for percent in (10, 1, 50):
        set_policy(world, subsets=SUBSETS, default={"v1": 100 - percent, "v2": percent})

        def check_split(client: Client) -> str:
            counts = client.call(calls, 8)
            check_no_failures(counts)
            return check_number(by_version(counts).get("v2", 0), counts.total, percent / 100, f"{percent} %:")

        world.fleet.each(check_split)


def shift(world: World) -> None:
    """No call fails while all calls shift from one subset to the other in steps, and back at once."""
    prepare(world, FOUR, subsets=SUBSETS, default={"v1": 100})
    world.fleet.each(lambda client: client.start(RATE))
    time.sleep(2)
    idle: dict[str, list[float]] = {}
    world.fleet.each(lambda client: idle.__setitem__(client.name, client.stop_without_failures().times))
    world.fleet.each(lambda client: client.start(RATE))
    for percent in (1, 50, 100, 0):
        set_policy(world, subsets=SUBSETS, default={v: p for v, p in {"v1": 100 - percent, "v2": percent}.items() if p})
        if percent in (0, 100):
            version = "v2" if percent else "v1"

            def only(client: Client) -> None:
                counts = client.call(40, 4)
                check_no_failures(counts)
                check(set(by_version(counts)) == {version}, f"not only {version} at {percent} %: {counts}")

            world.fleet.each(only)

    def stop(client: Client) -> str:
        counts = client.stop()
        world.shifted[client.name] = counts
        check_no_failures(counts)
        before, p99 = (percentile(times, 99) for times in (idle[client.name], counts.times))
        return f"0 of {counts.total} calls failed; p99 {p99:.1f} ms, {before:.1f} ms before"

    world.fleet.each(stop)


def policy_removed(world: World) -> None:
    """After a policy with subsets is removed, calls go to the whole service, and to instances that register later."""
    prepare(world, ONE_EACH, subsets=SUBSETS, default={"v1": 100})
    set_policy(world)
    world.fleet.each(lambda client: client.sees(*ONE_EACH) and None)
    world.payments.add(world.backend("v3-z1"))

    world.fleet.each(lambda client: client.sees(*ONE_EACH, "v3-z1") and None)


ROUTES = [
    {"header": {"x-canary": "true"}, "to": {"v2": 100}},
    {"header": {"x-version": "~v[23]"}, "to": {"v3": 100}},
    {"header": {"x-user": "*", "x-internal": "!"}, "to": {"v2": 100}},
    {"method": "/pay.v1.Payments/Refund", "to": {"v3": 100}},
    {"method": "/pay.v1.Payments/*", "to": {"v2": 100}},
    {"method": "/pay.v1.Payments/Refund", "to": {"v1": 100}},
]
ROUTED_CALLS = [
    ({}, None, "v1"),
    ({"x-canary": "true"}, None, "v2"),
    ({"x-canary": "truest"}, None, "v1"),
    ({"x-version": "v3"}, None, "v3"),
    ({"x-version": "v33"}, None, "v1"),
    ({"x-canary": "true", "x-version": "v3"}, None, "v2"),
    ({"x-user": "anyone"}, None, "v2"),
    ({"x-user": "anyone", "x-internal": "1"}, None, "v1"),
    ({}, "/pay.v1.Payments/Refund", "v3"),
    ({}, "/pay.v1.Payments/Charge", "v2"),
    ({}, "/pay.v1.Payments2/Charge", "v1"),
    ({"x-canary": "true"}, "/pay.v1.Payments/Refund", "v2"),
]


def routes(world: World) -> None:
    """Each call goes to the subset of the first route whose headers and method match, or to the default one."""
    subsets = {**SUBSETS, "v3": 'metadata["version"] == "v3"'}
    prepare(world, [*ONE_EACH, "v3-z1"], subsets=subsets, default={"v1": 100}, route=ROUTES)
    calls = world.number(200, 30)

    def check_routes(client: Client) -> None:
        for headers, method, version in ROUTED_CALLS:
            counts = client.call(calls, 4, headers=headers, method=method)
            check_no_failures(counts)
            check(set(by_version(counts)) == {version}, f"{headers} {method or ''} leads to {counts}, not to {version}")

    world.fleet.each(check_routes)


STREAMS = 1_100
MAX_STREAMS = Difference("Envoy, as tested, takes 1,024 streams of a connection; further calls wait.")


def open_streams(world: World) -> None:
    """1,100 streams of a client stay open without a limit; with a limit of 10, the eleventh is UNAVAILABLE."""
    prepare(world, ONE_EACH)

    def park(client: Client, streams: int, opened: int) -> Counts:
        counts = client.park(streams)
        succeeded = sum(counts.backends.values())
        check(succeeded == opened, f"{succeeded} of {streams} streams were opened, not {opened}: {counts.errors}")
        return counts

    def unlimited(client: Client) -> Difference | None:
        streams = client.type.max_streams or STREAMS
        park(client, streams, streams)
        if client.type.max_streams:
            counts = client.call(1, 1, deadline_ms=500)
            check(counts.failed, f"more than {streams} streams and calls are open")
            client.unpark()
            return MAX_STREAMS
        client.unpark()

    world.fleet.each(unlimited)
    set_policy(world, max_requests=10)

    def limited(client: Client) -> Difference | None:
        if not client.type.max_requests:
            park(client, 12, 12)
            client.unpark()
            return NO_LIMIT
        counts = park(client, 12, 10)
        check(all(error.startswith("UNAVAILABLE") for error in counts.errors), f"not UNAVAILABLE: {counts.errors}")
        client.unpark()
        return None

    world.fleet.each(limited)


LONG = 16.0  # seconds; Envoy ends calls after 15 unless it is told not to
TIMEOUT_MS = 200


def timeouts(world: World) -> None:
    """Calls end with DEADLINE_EXCEEDED after the timeout of the policy; those of a route without one stay open."""
    route = {"method": f"{ECHO}/Park", "timeout": "0s"}
    prepare(world, ONE_EACH, timeout=f"{TIMEOUT_MS}ms", route=[route])
    began = time.monotonic()
    world.fleet.each(lambda client: check_no_failures(client.park(1)))
    open_streams = sum(backend.stats().streams for backend in world.backends(ONE_EACH))
    for backend in world.backends(ONE_EACH):
        backend.delay(2_000)

    def timed_out(client: Client) -> str | Difference:
        counts = client.call(4, 4)
        if not client.type.timeout:
            check_no_failures(counts)
            return NO_TIMEOUT
        check(not counts.backends, f"calls of 2 s succeed: {counts}")
        check(all(error.startswith("DEADLINE_EXCEEDED") for error in counts.errors), f"other errors: {counts.errors}")
        times = counts.ms["failed"]
        measured = f"{min(times):.0f} to {max(times):.0f} ms"
        late = 1_000 if client.type.late_timeouts else 0
        # Clients on a loaded machine notice the timeout late, but well before the backend answers.
        check(all(-50 <= ms - TIMEOUT_MS <= late + 500 for ms in times), f"calls ended after {measured}")
        return LATE_TIMEOUTS if late else measured

    world.fleet.each(timed_out)
    time.sleep(max(0, began + LONG - time.monotonic()))
    still_open = sum(backend.stats().streams for backend in world.backends(ONE_EACH))
    check(still_open == open_streams, f"{still_open} of {open_streams} streams are open after {LONG:.0f} s")
    world.fleet.each(lambda client: client.unpark())


def retries(world: World) -> None:
    """Calls that fail with the given status are tried again, as often as the policy says, and no more."""
    ids = ("v1-z1", "v1-z2", "v1-z3")
    prepare(world, ids)
    calls = world.number(3_000, 900)
    for attempts in (2, 0):
        set_policy(world, retry={"attempts": attempts, "on": ["unavailable"]} if attempts else {"attempts": 0})
        for backend in world.backends(ids):
            backend.fail(100 / 3)
            backend.reset()
        counts = {}
        world.fleet.each(lambda client: counts.__setitem__(client.name, client.call(calls, 16, method=method_of(client))))
        methods = [backend.stats().methods for backend in world.backends(ids)]
        for backend in world.backends(ids):
            backend.fail(0)

        def check_attempts(client: Client) -> str:
            failed = counts[client.name].failed
            check_number(failed, calls, (1 / 3) ** (attempts + 1), f"{attempts} retries, failed calls")
            tried = sum(method.get(method_of(client), {"calls": 0})["calls"] for method in methods)
            # The further attempts are a random part of those that are possible.
            expected = sum((1 / 3) ** retry for retry in range(1, attempts + 1)) / max(attempts, 1)
            check_number(tried - calls, calls * max(attempts, 1), expected, "further attempts")
            return f"{attempts} retries: {failed} of {calls} failed in {tried} attempts"

        world.fleet.each(check_attempts)


def shed(world: World) -> None:
    """Clients drop the given part of the calls themselves, with UNAVAILABLE, until the policy changes again."""
    prepare(world, ONE_EACH)
    calls = world.number(10_000, 2_000)
    for lb, percent in (("round_robin", 20), ("round_robin", 50), ("ring_hash", 50), ("ring_hash", 20)):
        set_policy(world, lb=lb, shed=percent)

        def dropped(client: Client) -> str | Difference:
            counts = client.call(calls, 8)
            if not client.type.shed:
                check_no_failures(counts)
                return NO_DROPS
            errors = counts.errors
            check(all(error.startswith("UNAVAILABLE") for error in errors), f"not UNAVAILABLE: {errors}")
            return check_number(counts.failed, calls, percent / 100, "dropped")

        world.fleet.each(dropped)
    set_policy(world)
    world.fleet.each(lambda client: check_no_failures(client.call(calls, 8)))
