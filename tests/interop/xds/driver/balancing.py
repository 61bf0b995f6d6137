"""Scenarios of the balancing between instances: policies, weights, outliers, slow start and response times."""

import time

from backends import Backend
from clients import CLIENT_TYPES, UPDATE_TIMEOUT, Client, Counts
from fixture import check
from load_reports import LoadReports
from policy import SETTLE, check_no_failures, check_number, method_of, prepare, set_policy, tolerance
from scenarios import FLAT
from world import Difference, World

FOUR = ("v1-z1-a", "v1-z1-b", "v1-z1-c", "v1-z1-d")
FIVE = (*FOUR, "v1-z1-e")
SLOW_MS = 200  # so long that least request avoids the slow instance also on a loaded machine
RATE = 100  # calls a second of each client, so that instances get enough calls in an interval of outlier detection

ROUND_ROBIN = Difference("The client has no least request, and uses round robin.")
NO_RING = Difference("The client has no ring hash (C-core before 1.53 would crash), and balances as without it.")
RECONNECTS = Difference("The client connects anew to all instances at each change of weights, and gets one in 10 seconds.")
NO_REPORTS = Difference("The client reports no load.")


def balancers(world: World) -> None:
    """Every client accepts each balancer. With least request, a slow instance gets fewer calls where the client has it."""
    prepare(world, FOUR)
    calls = world.number(2_000, 400)

    def check_even(client: Client) -> None:
        counts = client.call(calls, 8)
        check_no_failures(counts)
        for id in FOUR:
            check_number(counts.backends.get(id, 0), calls, 0.25, id)

    for balancer in ("weighted", "ring_hash", "round_robin"):
        set_policy(world, lb=balancer)
        if balancer != "ring_hash":
            world.fleet.each(check_even)
    world.backend(FOUR[0]).delay(SLOW_MS)
    set_policy(world, lb="least_request")

    def slow_share(client: Client) -> str | Difference:
        counts = client.call(calls, 8)
        check_no_failures(counts)
        slow = counts.backends.get(FOUR[0], 0)
        if not client.type.least_request:
            check_number(slow, calls, 0.25, "calls of the slow instance")
            return ROUND_ROBIN
        check(slow < calls * 0.19, f"the slow instance got {slow} of {calls} calls")
        return f"slow instance {slow} of {calls}"

    world.fleet.each(slow_share)
    world.backend(FOUR[0]).delay(0)


HASH_ROUTE = {"hash_header": "x-key"}


def instances_of_keys(client: Client, keys: int) -> dict[int, str]:
    """Returns the instance of each key."""
    found = {}
    for key in range(keys):
        counts = client.call(1, 1, headers={"x-key": f"key-{key}"})
        check_no_failures(counts)
        [found[key]] = counts.backends
    return found


def ring_hash(world: World) -> None:
    """Calls with the same key go to the same instance. If an instance leaves, its keys move, and few others."""
    prepare(world, FOUR, lb="ring_hash", route=[HASH_ROUTE])
    keys = world.number(1_000, 150)
    before: dict[str, dict[int, str]] = {}

    def same_instance(client: Client) -> None:
        before[client.name] = instances_of_keys(client, keys)
        again = instances_of_keys(client, keys)
        moved = sum(again[key] != id for key, id in before[client.name].items())
        if client.type.ring_hash:
            check(not moved, f"{moved} of {keys} keys moved without a change")
        else:
            check(moved > keys / 2, f"only {moved} of {keys} keys moved, although the client is known to have no ring hash")

    world.fleet.each(same_instance)
    world.payments.remove(FOUR[0])
    world.fleet.each(lambda client: gone(client, FOUR[0]))

    def others_stay(client: Client) -> str | Difference:
        if not client.type.ring_hash:
            return NO_RING
        after = instances_of_keys(client, keys)
        lost = [key for key, id in before[client.name].items() if id == FOUR[0]]
        moved = sum(after[key] != id for key, id in before[client.name].items() if id != FOUR[0])
        # The others move because each remaining instance gets more points of the ring.
        check(moved <= keys / 4, f"{moved} keys moved that were not those of the instance that left")
        return f"{len(lost)} keys of the instance that left moved, and {moved} others, of {keys}"

    world.fleet.each(others_stay)
    world.payments.add(world.backend(FOUR[0]))


def gone(client: Client, id: str) -> None:
    """Calls with many keys until none goes to this instance."""
    deadline = time.monotonic() + UPDATE_TIMEOUT
    while id in (used := set(instances_of_keys(client, 20).values())):
        check(time.monotonic() < deadline, f"{id} is still used: {used}")


WEIGHTS = dict(zip(FOUR, (3, 2, 1)))


def weights(world: World) -> None:
    """Shares are as the weights 3:2:1, with one locality for a weight, one for an instance, and with ring hash."""
    prepare(world, WEIGHTS)
    for id, weight in WEIGHTS.items():
        world.payments.update(id, weight=weight)
    calls, keys = world.number(10_000, 1_500), world.number(1_000, 300)

    def check_weights(client: Client, counts: dict[str, int], what: str) -> str:
        total = sum(counts.values())
        return "; ".join(check_number(counts.get(id, 0), total, w / 6, f"{what}{id[-1]}") for id, w in WEIGHTS.items())

    for source in ("configured", "response_time"):
        set_policy(world, weights=source)

        def by_call(client: Client) -> str | Difference | None:
            counts = client.call(calls, 8)
            check_no_failures(counts)
            if client.type.flat:
                for id in WEIGHTS:
                    check_number(counts.backends.get(id, 0), calls, 1 / 3, id)
                return FLAT
            return check_weights(client, counts.backends, "")

        world.fleet.each(by_call)
    set_policy(world, lb="ring_hash", route=[HASH_ROUTE])

    def by_key(client: Client) -> str | None:
        if not client.type.ring_hash:
            return None
        used = list(instances_of_keys(client, keys).values())
        return check_weights(client, {id: used.count(id) for id in WEIGHTS}, "keys of ")

    world.fleet.each(by_key)


INTERVAL, EJECT = 2, 10  # seconds; an ejection lasts longer than the calls that show it
OUTLIER = {"failure_percent": 50, "hosts": 3, "calls": 20, "interval": f"{INTERVAL}s", "eject": f"{EJECT}s", "max_percent": 30}


def outlier(world: World) -> None:
    """An instance that fails its calls is no longer called, and is called again once it works."""
    prepare(world, FIVE, outlier=OUTLIER)
    world.fleet.each(lambda client: client.start(RATE))
    failing = world.backend(FIVE[4])
    failing.fail(100)

    def ejects(client: Client) -> str | Difference:
        if not client.type.outlier_detection:
            before = client.stats()
            counts = client.until(lambda counts: counts.total >= before.total + 150, "150 calls")
            check_number(counts.failed - before.failed, counts.total - before.total, 0.2, "calls of the failing instance")
            return Difference("The client has no outlier detection.")
        before = client.fails_no_more(100)
        return f"{before.failed} of {before.total} calls failed before the ejection"

    world.fleet.each(ejects)
    failing.fail(0)
    # The time of an ejection rises with the number of ejections.
    world.fleet.each(lambda client: client.uses_again(failing.id))
    world.fleet.each(lambda client: client.stop() and None)


def connections_of(client: Client, backends: list[Backend]) -> int:
    """Returns the number of connections that calls of this client came on since the last reset."""
    none = {"connections": 0}
    return sum(backend.stats().methods.get(method_of(client), none)["connections"] for backend in backends)


def check_connections(client: Client, backends: list[Backend], expected: int) -> Difference | None:
    """Checks that the client has used as many connections as the backends have accepted from it before a change."""
    used = connections_of(client, backends)
    if client.type.reconnects:
        check(used > expected, f"{used} connections as before, although the client is known to connect anew")
        return RECONNECTS
    check(used <= expected, f"{used} connections instead of {expected}")
    return None


WINDOW = 20  # seconds of slow start
STEPS = (0.1, 0.25, 0.5, 0.75)  # weight of a new instance, as a part of its full weight, from the same part of the window on


def slow_start(world: World) -> None:
    """The share of a new instance rises in the given steps, and no instance is connected to anew."""
    prepare(world, FOUR, slow_start=f"{WINDOW}s")
    backends = world.backends(FOUR)
    new = world.backend(FIVE[4])
    world.payments.wait_for_age(WINDOW)  # of two new instances, neither starts slowly
    world.fleet.each(lambda client: client.start(RATE, method=method_of(client)))
    world.fleet.each(lambda client: client.until(lambda counts: counts.total >= 2 * RATE, "2 s of calls") and None)
    connections = {}
    world.fleet.each(lambda client: connections.__setitem__(client.name, connections_of(client, backends)))
    world.payments.add(new)
    began = time.monotonic()
    shares: dict[str, list[tuple[float, int]]] = {name: [] for name in world.names}  # with the numbers of calls
    for step, following in zip(STEPS, (*STEPS[1:], 1.0)):
        # A window of calls within the step; the first one begins when the clients have connected.
        time.sleep(max(0, began + WINDOW * (step if step > 0.1 else 0.04) + SETTLE - time.monotonic()))
        before: dict[str, Counts] = {}
        world.fleet.each(lambda client: before.__setitem__(client.name, client.stats()))
        time.sleep(max(0, began + WINDOW * following - 0.3 - time.monotonic()))

        def share(client: Client) -> None:
            counts = client.stats()
            calls = counts.total - before[client.name].total
            new_calls = counts.backends.get(new.id, 0) - before[client.name].backends.get(new.id, 0)
            shares[client.name].append((new_calls / calls, calls))

        world.fleet.each(share)

    def check_curve(client: Client) -> str | Difference | None:
        check_no_failures(client.stop())
        measured = ", ".join(f"{share:.1%}" for share, _ in shares[client.name])
        if client.type.flat:
            check(all(share > 0.12 for share, _ in shares[client.name]), f"shares of the new instance: {measured}")
            return FLAT
        for number, (step, (share, calls)) in enumerate(zip(STEPS, shares[client.name])):
            # A client that reconnects has the weights of up to 10 seconds ago, which is two steps.
            oldest = STEPS[max(0, number - 2)] if client.type.reconnects else step
            least, most = (weight / (4 + weight) for weight in (oldest, step))
            # 20 % of the curve, and the randomness of the calls.
            allowed = 0.2 * most + tolerance(calls, most) / calls
            check(
                least - allowed <= share <= most + allowed,
                f"shares {measured}: not {least:.1%} to {most:.1%} ± {allowed:.1%} at {step:.0%}",
            )
        return check_connections(client, backends, connections[client.name]) or f"shares {measured}"

    world.fleet.each(check_curve)


ADAPTATION = 62  # seconds until weights have changed twice


def response_time(world: World) -> None:
    """An instance four times slower than the others gets fewer calls, and no instance is connected to anew."""
    prepare(world, FOUR, weights="response_time")
    backends = world.backends(FOUR)
    for backend, delay in zip(backends, (4 * 5, 5, 5, 5)):
        backend.delay(delay)
    slow, calls = FOUR[0], 3_000
    world.fleet.each(lambda client: client.start(RATE // 2, method=method_of(client)))
    world.fleet.each(lambda client: client.until(lambda counts: counts.total >= RATE, "calls") and None)
    connections = {}
    world.fleet.each(lambda client: connections.__setitem__(client.name, connections_of(client, backends)))
    with LoadReports(world.payments, backends):
        time.sleep(world.number(75, ADAPTATION))

        def check_slow(client: Client) -> str | Difference | None:
            counts = client.call(calls, 8, method=method_of(client))
            check_no_failures(counts)
            slow_calls = counts.backends[slow]
            if client.type.flat:
                check(slow_calls > calls * 0.15, f"the slow instance got {slow_calls} of {calls} calls")
                return FLAT
            check(slow_calls < calls * 0.22, f"the slow instance got {slow_calls} of {calls} calls")
            connected = check_connections(client, backends, connections[client.name])
            return connected or f"slow instance {slow_calls} of {calls}"

        world.fleet.each(check_slow)
    world.fleet.each(lambda client: client.stop_without_failures() and None)
    for backend in backends:
        backend.delay(0)


LIBRARIES = ("core", "java", "go", "node")
REPORT_TIMEOUT = 25.0  # limit in seconds for the reports of all calls: two intervals, and some time


def reported_loads(world: World) -> None:
    """Clients report the calls that they make. Their numbers at the registry become those that the clients count."""
    prepare(world, FOUR, weights="response_time")
    made: dict[str, int] = {}

    def reported(library: str) -> float:
        return world.memory.metric(f'callboard_xds_reported_requests_total{{library="{library}"}}')

    # Clients that start with the policy report their calls from the first one on.
    world.fleet.end_all()
    before = {library: reported(library) for library in LIBRARIES}
    with world.other_fleet("xds:///payments") as fleet:

        def call(client: Client) -> str | Difference:
            # The first calls of a program that starts on a loaded machine are slow.
            counts = client.call(world.number(2_000, 400), 8, deadline_ms=30_000)
            check_no_failures(counts)
            if client.type.load_reports is None:
                return NO_REPORTS
            made[client.name] = counts.total
            return f"{counts.total} calls"

        fleet.each(call)
        for library in LIBRARIES:
            names = [name for name in made if CLIENT_TYPES[name].load_reports == library]
            expected = sum(made[name] for name in names)
            deadline = time.monotonic() + REPORT_TIMEOUT
            while (found := reported(library) - before[library]) < expected and time.monotonic() < deadline:
                time.sleep(0.2)
            for name in names:
                if found != expected:
                    world.results[name].failure = f"{', '.join(names)} made {expected} calls, and reported {found:.0f}"
