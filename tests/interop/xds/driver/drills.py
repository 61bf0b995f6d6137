"""Drills: changes of policies during outages, rejections, stalls and under load."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from ads import LDS, AdsClient, selected_by
from availability import ALL_TO_V2, uses_only
from callboard.v1 import xds_pb2
from clients import Client
from fixture import check
from policy import ONE_EACH, ROLLOUT_TIMEOUT, SUBSETS, by_version, check_no_failures, prepare, set_policy
from registry import Service
from scenarios import KEEPS_LAST, RATE, WAITS
from world import Difference, Fleet, World

ALL_TO_V1 = {"subsets": SUBSETS, "default": {"v1": 100}}


@contextlib.contextmanager
def ads_client(world: World, **options: Any) -> Iterator[AdsClient]:
    stream = AdsClient(world.memory.address, "payments", "wire", **options)
    try:
        yield stream
    finally:
        stream.close()


def unsynced(service: Service) -> dict[str, Any]:
    """Returns the streams that have not the present policy, by node id."""
    rollout = service.registry.xds.GetPolicyRollout(xds_pb2.GetPolicyRolloutRequest(service=service.name))
    return {stream.node_id: stream for stream in rollout.unsynced}


def await_unsynced(service: Service, node_id: str, reason: str, within: float = ROLLOUT_TIMEOUT) -> None:
    """Waits until a stream is named with a reason that has this text."""
    deadline = time.monotonic() + within
    while not ((stream := unsynced(service).get(node_id)) and reason in stream.reason):
        check(time.monotonic() < deadline, f"{node_id} is not named with {reason!r}: {stream}")
        time.sleep(0.02)


def check_versions(fleet: Fleet, version: str) -> None:
    """Checks that calls go to one version only."""

    def only(client: Client) -> None:
        counts = client.call(40, 4)
        check_no_failures(counts)
        check(set(by_version(counts)) == {version}, f"not only {version}: {counts}")

    fleet.each(only)


def server_killed_in_shift(world: World) -> None:
    """`kill -9` of the registry at any time in a change of policy fails no call; the change is completed after the restart."""
    with tempfile.TemporaryDirectory(dir=world.scratch) as directory:
        registry = world.new_registry("--data-dir", directory)
        try:
            service = Service(registry, "payments")
            service.become(*world.backends(ONE_EACH))
            service.set_policy(**ALL_TO_V1)
            with world.other_fleet("xds:///payments", registry) as fleet:
                fleet.each(lambda client: client.sees("v1-z1") and None)
                fleet.each(lambda client: client.start(RATE))
                # Between the response to SetPolicy and the resources of clusters, and between two steps of the change.
                for delay, (policy, version) in zip((0, 0.005, 0.05, 0.15, 0.25) if world.full else (0.005, 0.15), toggles()):
                    service.set_policy(**policy)
                    time.sleep(delay)
                    registry.kill()
                    registry.start()
                    fleet.each(lambda client: uses_only(client, version))
                fleet.each(lambda client: client.stop_without_failures() and None)
        finally:
            registry.kill()


def toggles() -> Iterator[tuple[dict[str, Any], str]]:
    """Returns policies that send all calls to v2 and to v1 in turn, without end."""
    while True:
        yield ALL_TO_V2, "v2"
        yield ALL_TO_V1, "v1"


def rejected_policy(world: World) -> None:
    """A client that rejects a policy is named, gets the previous one again but not the rejected one, and gets the next one."""
    prepare(world, ONE_EACH, **ALL_TO_V1)
    rejecting = threading.Event()

    def answer(response: Any) -> str | None:
        return "no thanks" if rejecting.is_set() and "payments|v2" in selected_by(response) else None

    with ads_client(world, answer=answer) as stream:
        stream.wait(lambda stream: "payments|v1" in stream.assignments, "the endpoints of v1")
        rejecting.set()
        world.payments.set_policy(**ALL_TO_V2)
        await_unsynced(world.payments, "wire", "rejected")
        # C-core 1.51 reads its stream every five seconds while it makes no calls.
        others = world.payments.unsynced(ROLLOUT_TIMEOUT, besides={"wire"})
        check(not others, f"clients that do not reject the policy do not have it: {others}")
        stream.quiet(1)
        sent = sum("payments|v2" in selected_by(response) for response in stream.responses)
        check(stream.quiet(3), "the registry sends more after a rejection")
        check(sent == 1, f"the rejected routes were sent {sent} times")
        rejecting.clear()
        world.payments.set_policy(**ALL_TO_V2, timeout="5s")
        stream.wait(lambda stream: stream.selected == ["payments|v2"], "the next policy")
        check(not world.payments.unsynced(ROLLOUT_TIMEOUT), "the next policy is not accepted")
    check_versions(world.fleet, "v2")


def stalled_client(world: World) -> None:
    """A client that answers nothing is named, and does not delay the others."""
    prepare(world, ONE_EACH, **ALL_TO_V1)
    stalled = threading.Event()
    with ads_client(world, answer=lambda response: False if stalled.is_set() else None) as stream:
        stream.wait(lambda stream: "payments|v1" in stream.assignments, "the endpoints of v1")
        stalled.set()
        world.fleet.each(lambda client: client.start(RATE))
        world.payments.set_policy(**ALL_TO_V2)
        world.fleet.each(lambda client: uses_only(client, "v2"))
        world.fleet.each(lambda client: client.stop_without_failures() and None)
        await_unsynced(world.payments, "wire", "")
        check(unsynced(world.payments).keys() == {"wire"}, f"not only the stalled client is named: {unsynced(world.payments)}")
        sent = len(stream.responses)
        check(stream.quiet(2), f"the registry sends more to a client that does not answer, after {sent} responses")
    deadline = time.monotonic() + 5
    while unsynced(world.payments):
        check(time.monotonic() < deadline, "the closed stream is still named")
        time.sleep(0.02)


FLIPS = 100
ANSWER_TIME = 0.1  # seconds in which the slow client answers


def flipped_policy(world: World) -> None:
    """A policy that is flipped 100 times in a second fails no call, and the last one wins. A slow client gets few of them."""
    prepare(world, ONE_EACH, **ALL_TO_V1)
    with ads_client(world, answer=lambda response: time.sleep(ANSWER_TIME)) as stream:
        stream.wait(lambda stream: "payments|v1" in stream.assignments, "the endpoints of v1")
        world.fleet.each(lambda client: client.start(RATE))
        before = stream.number_of(LDS)
        began = time.monotonic()
        for flip, (policy, _) in zip(range(FLIPS), toggles()):
            world.payments.set_policy(**policy)
            time.sleep(max(0, began + (flip + 1) / FLIPS - time.monotonic()))
        world.payments.set_policy(**ALL_TO_V2)
        took = time.monotonic() - began
        world.fleet.each(lambda client: uses_only(client, "v2"))
        check(not (missing := world.payments.unsynced(ROLLOUT_TIMEOUT)), f"not all clients have the last policy: {missing}")
        pushes = stream.number_of(LDS) - before
        # One at a time, each the newest; the last policy needs up to three.
        check(pushes <= took / ANSWER_TIME + 4, f"{pushes} listeners were pushed for {FLIPS} policies in {took:.1f} s")

        def stop(client: Client) -> str:
            counts = client.stop_without_failures()
            return f"0 of {counts.total} calls failed; {pushes} listeners pushed to the slow client"

        world.fleet.each(stop)


def restart_in_memory(world: World) -> None:
    """A registry in memory loses its policies at a restart; calls go on, and a policy can be set while it settles."""
    prepare(world, ONE_EACH)
    world.payments.become()
    for backend in world.backends(ONE_EACH):
        world.payments.renew(backend)
    world.payments.wait_until_registered(*ONE_EACH)
    world.fleet.each(lambda client: client.sees(*ONE_EACH) and None)
    set_policy(world, **ALL_TO_V2)
    world.fleet.each(lambda client: client.start(RATE))
    world.fleet.each(lambda client: uses_only(client, "v2"))
    world.memory.kill()
    world.memory.start()
    world.payments.set_policy(**ALL_TO_V1)
    world.payments.wait_until_registered(*ONE_EACH)
    world.fleet.each(lambda client: uses_only(client, "v1"))
    world.fleet.each(lambda client: client.stop_without_failures() and None)
    world.payments.become()


def filter_without_matches(world: World) -> None:
    """If the filter of a subset suddenly matches nothing, its calls go to the rest of the service, and none fails."""
    prepare(world, ONE_EACH, **ALL_TO_V2)
    world.fleet.each(lambda client: client.start(RATE))
    world.fleet.each(lambda client: uses_only(client, "v2"))
    set_policy(world, subsets={**SUBSETS, "v2": 'metadata["version"] == "v9"'}, default={"v2": 100})
    world.fleet.each(lambda client: client.until(lambda counts: "v1-z1" in counts.backends, "calls of v1") and None)
    set_policy(world, **ALL_TO_V2)
    world.fleet.each(lambda client: uses_only(client, "v2"))
    world.fleet.each(lambda client: client.stop_without_failures() and None)


def fallback_removed(world: World) -> None:
    """Calls go to the fallback once a service has no instance. If the fallback has none either, calls fail at once."""
    spare = Service(world.memory, "payments-spare")
    spare.become(world.backend("v3-z1"))
    prepare(world, ["v1-z1"], fallback=["payments-spare"])
    world.fleet.each(lambda client: client.start(RATE))
    world.payments.drain("v1-z1")
    world.fleet.each(lambda client: uses_only(client, "v3"))
    world.fleet.each(lambda client: client.stop_without_failures() and None)
    spare.become()

    def fails(client: Client) -> str | Difference | None:
        if client.type.keeps_last_backends:
            check(not client.call(40, 4).failed, "calls of the last instance fail")
            return KEEPS_LAST
        client.fails(client.type.status_without_backends)
        return WAITS if client.type.status_without_backends == "DEADLINE_EXCEEDED" else None

    world.fleet.each(fails)
    world.payments.update("v1-z1", draining=False)
    world.fleet.each(lambda client: client.sees("v1-z1") and None)
