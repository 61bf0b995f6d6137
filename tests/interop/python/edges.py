"""What the server says to clients that are wrong, late, second or picky."""

import os
from typing import Any

import grpc
from callboard.v1 import discovery_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from story import SELECTION, seconds, status_of
from watch import Watch
from world import Heartbeats, Refused, World, boot_of, check, duration


def refused(error: grpc.RpcError, code: grpc.StatusCode, wanted: Any = None) -> Any:
    """Wants an error of this code, from this server; returns the wanted detail."""
    check(error.code() == code, f"wanted {code.name}, got {error.code().name}: {error.details()}")
    status = rpc_status.from_call(error)
    check(status, f"an error without details: {error.details()}")

    def detail(kind: Any) -> Any:
        found = kind()
        for packed in status.details:
            if packed.Unpack(found):
                return found
        check(False, f"no {kind.__name__} in {status}")

    info = detail(error_details_pb2.ErrorInfo)
    check(info.domain == "callboard.dev" and info.reason, f"the error says of itself: {info}")
    return detail(wanted) if wanted else None


def blames(error: grpc.RpcError, field: str) -> None:
    violations = refused(error, grpc.StatusCode.INVALID_ARGUMENT, error_details_pb2.BadRequest).field_violations
    check([violation.field for violation in violations] == [field], f"it blames {violations}")


def malformed_token(world: World) -> None:
    blames(Watch(world.reader, services=SELECTION, resume_token=b"too short").error(), "resume_token")


def token_of_other_selection(world: World) -> None:
    other = Watch(world.reader, world.watch, services=["orders"], resume_token=world.watch.token)
    first = other.next()
    check(first.message and first.message.HasField("reset"), f"first came {first}")
    check(other.reset == "OTHER_SELECTOR", f"reset: {other.reset}")
    other.synced().close()
    listed = world.discovery.ListInstances(discovery_pb2.ListInstancesRequest(service="orders")).instances
    check(len(listed) == 3, f"listed {listed}")
    check(other.held == {f"orders/{instance.id}": instance for instance in listed}, f"listed {listed}, watched {other.held}")


def unknown_lease(world: World) -> None:
    state = Heartbeats(world.writer).one(os.urandom(16))
    check(state == "UNKNOWN", f"a lease that nobody granted is {state}")


def takes_over(world: World) -> None:
    first, second = boot_of("leader", "l-1", 60), boot_of("leader", "l-1", 60)
    get = discovery_pb2.GetInstanceRequest(service="leader", id="l-1")
    held = world.register(first).lease_id
    heartbeats = Heartbeats(world.writer)
    check(heartbeats.one(held) == "HELD", "the first is not held")
    life = world.discovery.GetInstance(get).instance

    try:
        world.register(second)
        check(False, "the second boot was let in while the first is alive")
    except Refused as refusal:
        retry = refused(refusal.error, grpc.StatusCode.ALREADY_EXISTS, error_details_pb2.RetryInfo)
        check(seconds(retry.retry_delay) > 0, f"when to try again: {retry}")
    check(world.discovery.GetInstance(get).instance == life, "the refused one changed something")

    second.replace = True
    taken = world.register(second).lease_id
    check(heartbeats.one(held) == "SUPERSEDED", "the first is not superseded")
    check(heartbeats.one(taken) == "HELD", "the second is not held")
    successor = world.discovery.GetInstance(get).instance
    check(successor.registered_revision > life.registered_revision, "another boot, and yet the same life")

    world.deregister("leader", "l-1")
    check(heartbeats.one(taken) == "REMOVED", "removed by an operator, its lease gets no such state")
    try:
        world.discovery.GetInstance(get)
        check(False, "what was removed is still there")
    except Refused as refusal:
        refused(refusal.error, grpc.StatusCode.NOT_FOUND)


def filters(world: World) -> None:
    world.register(boot_of("colors", "c-1", 60, tags=["blue", "fast"]))
    world.register(boot_of("colors", "c-2", 60, tags=["red"]))
    watch = Watch(world.reader, services=["colors"], filter='"blue" in tags').synced()
    check(list(watch.held) == ["colors/c-1"], f"matching: {watch.held}")

    world.update("colors", "c-2", tags=["red", "blue"])
    watch.updated("colors/c-2")
    world.update("colors", "c-1", tags=["fast"])
    watch.removed("colors/c-1", "NO_LONGER_MATCHES")

    # Neither of these is this watcher's business; what it hears next is the third.
    world.update("colors", "c-1", weight=2)
    world.deregister("colors", "c-1")
    world.deregister("colors", "c-2")
    watch.removed("colors/c-2", "DEREGISTERED")
    watch.close()

    blames(Watch(world.reader, services=["colors"], filter='"blue" within tags').error(), "filter")


def watches_before_registration(world: World) -> None:
    watch = Watch(world.reader, services=["not-yet"]).synced()
    check(not watch.held, f"nobody registered, yet there is {watch.held}")
    registered = world.register(boot_of("not-yet", "n-1", 60, starting=True, disconnect_grace=duration(1)))
    seen = watch.updated("not-yet/n-1")
    check(status_of(seen) == "STARTING", f"it is {status_of(seen)}")
    check(seen.revision == seen.registered_revision == registered.revision, f"registered at {registered.revision}, seen {seen}")

    world.update("not-yet", "n-1", lease_id=registered.lease_id, starting=False)
    seen = watch.updated("not-yet/n-1")
    check(status_of(seen) == "SERVING", f"it is {status_of(seen)}")
    watch.close()
