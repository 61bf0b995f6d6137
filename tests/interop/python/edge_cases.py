"""Invalid requests, lost leases, replaced registrations, filters, and watches of services without instances."""

import os
from typing import Any

import grpc
from callboard.v1 import discovery_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from lifecycle import LIFECYCLE_SERVICES, seconds, status_of
from watch import Watch
from fixture import CallFailed, Fixture, Heartbeats, boot_of, check, duration


def expect_error(error: grpc.RpcError, code: grpc.StatusCode, wanted: Any = None) -> Any:
    """Checks that an error has this code and an ErrorInfo of Callboard; returns the detail of type `wanted`."""
    check(error.code() == code, f"expected {code.name}, got {error.code().name}: {error.details()}")
    status = rpc_status.from_call(error)
    check(status, f"an error without details: {error.details()}")

    def detail(kind: Any) -> Any:
        found = kind()
        for packed in status.details:
            if packed.Unpack(found):
                return found
        check(False, f"no {kind.__name__} in {status}")

    info = detail(error_details_pb2.ErrorInfo)
    check(info.domain == "callboard.dev" and info.reason, f"unexpected ErrorInfo: {info}")
    return detail(wanted) if wanted else None


def expect_field_violation(error: grpc.RpcError, field: str) -> None:
    violations = expect_error(error, grpc.StatusCode.INVALID_ARGUMENT, error_details_pb2.BadRequest).field_violations
    check([violation.field for violation in violations] == [field], f"the field violations are {violations}")


def malformed_token(fixture: Fixture) -> None:
    expect_field_violation(Watch(fixture.reader, services=LIFECYCLE_SERVICES, resume_token=b"too short").error(), "resume_token")


def token_of_other_selector(fixture: Fixture) -> None:
    other = Watch(fixture.reader, fixture.watch, services=["orders"], resume_token=fixture.watch.token)
    first = other.next()
    check(first.message and first.message.HasField("reset"), f"the first message is {first}; expected a reset")
    check(other.reset == "OTHER_SELECTOR", f"the reason of the reset is {other.reset}")
    other.synced().close()
    listed = fixture.discovery.ListInstances(discovery_pb2.ListInstancesRequest(service="orders")).instances
    check(len(listed) == 3, f"listed {listed}")
    check(other.instances == {f"orders/{instance.id}": instance for instance in listed}, f"listed {listed}, watched {other.instances}")


def unknown_lease(fixture: Fixture) -> None:
    state = Heartbeats(fixture.writer).state(os.urandom(16))
    check(state == "UNKNOWN", f"the state of an unknown lease is {state}")


def takes_over(fixture: Fixture) -> None:
    first, second = boot_of("leader", "l-1", 60), boot_of("leader", "l-1", 60)
    get = discovery_pb2.GetInstanceRequest(service="leader", id="l-1")
    held = fixture.register(first).lease_id
    heartbeats = Heartbeats(fixture.writer)
    check(heartbeats.state(held) == "HELD", "the first lease is not held")
    before = fixture.discovery.GetInstance(get).instance

    try:
        fixture.register(second)
        check(False, "the second boot was registered while the first lease is held")
    except CallFailed as failed:
        retry = expect_error(failed.error, grpc.StatusCode.ALREADY_EXISTS, error_details_pb2.RetryInfo)
        check(seconds(retry.retry_delay) > 0, f"RetryInfo without a delay: {retry}")
    check(fixture.discovery.GetInstance(get).instance == before, "the rejected registration changed the instance")

    second.replace = True
    taken = fixture.register(second).lease_id
    check(heartbeats.state(held) == "SUPERSEDED", "the first lease is not superseded")
    check(heartbeats.state(taken) == "HELD", "the second lease is not held")
    after = fixture.discovery.GetInstance(get).instance
    check(after.registered_revision > before.registered_revision, "replacing the instance did not increase registered_revision")

    fixture.deregister("leader", "l-1")
    check(heartbeats.state(taken) == "REMOVED", "after an operator's deregistration the lease is not REMOVED")
    try:
        fixture.discovery.GetInstance(get)
        check(False, "GetInstance returned a removed instance")
    except CallFailed as failed:
        expect_error(failed.error, grpc.StatusCode.NOT_FOUND)


def filters(fixture: Fixture) -> None:
    fixture.register(boot_of("colors", "c-1", 60, tags=["blue", "fast"]))
    fixture.register(boot_of("colors", "c-2", 60, tags=["red"]))
    watch = Watch(fixture.reader, services=["colors"], filter='"blue" in tags').synced()
    check(list(watch.instances) == ["colors/c-1"], f"the matching instances are {watch.instances}")

    fixture.update("colors", "c-2", tags=["red", "blue"])
    watch.updated("colors/c-2")
    fixture.update("colors", "c-1", tags=["fast"])
    watch.removed("colors/c-1", "NO_LONGER_MATCHES")

    # The filter excludes c-1 now, so the next change is the removal of c-2.
    fixture.update("colors", "c-1", weight=2)
    fixture.deregister("colors", "c-1")
    fixture.deregister("colors", "c-2")
    watch.removed("colors/c-2", "DEREGISTERED")
    watch.close()

    expect_field_violation(Watch(fixture.reader, services=["colors"], filter='"blue" within tags').error(), "filter")


def watches_before_registration(fixture: Fixture) -> None:
    watch = Watch(fixture.reader, services=["not-yet"]).synced()
    check(not watch.instances, f"no instance is registered, but the snapshot has {watch.instances}")
    registered = fixture.register(boot_of("not-yet", "n-1", 60, starting=True, disconnect_grace=duration(1)))
    seen = watch.updated("not-yet/n-1")
    check(status_of(seen) == "STARTING", f"the status is {status_of(seen)}")
    check(seen.revision == seen.registered_revision == registered.revision, f"registered at revision {registered.revision}, seen {seen}")

    fixture.update("not-yet", "n-1", lease_id=registered.lease_id, starting=False)
    seen = watch.updated("not-yet/n-1")
    check(status_of(seen) == "SERVING", f"the status is {status_of(seen)}")
    watch.close()
