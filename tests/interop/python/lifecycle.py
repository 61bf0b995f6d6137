"""Registration, renewal, update, removal and resumption: three instances of `orders`, one heartbeat stream, one watch."""

import os
import subprocess
import sys
import time

from callboard.v1 import discovery_pb2, instance_pb2, registry_pb2
from fixture import TOLERANCE, VICTIM_GRACE, Fixture, Heartbeats, boot_of, check, connect, duration, state_of
from watch import Watch

RENEWED_TTL = 3.0
EXPIRING_TTL = 2.0

# Instances that are killed or expire are in services of one or two instances, where self-preservation does not hold them.
LIFECYCLE_SERVICES = ["orders", "batch", "victims"]

ORDERS = [
    boot_of(
        "orders",
        f"o-{slot + 1}",
        RENEWED_TTL,
        addresses=[
            instance_pb2.Address(host="127.0.0.1", port=9001 + slot),
            instance_pb2.Address(host="orders.example", port=9100, name="metrics"),
        ],
        tags=["v1", f"slot-{slot}"],
        metadata={"team": "checkout", "slot": str(slot)},
        weight=10 * (slot + 1),
        locality=instance_pb2.Locality(region="eu", zone=f"eu-1{'abc'[slot]}"),
    )
    for slot in range(3)
]
leases: dict[str, bytes] = {}  # of the instances of `orders`, by id


def status_of(instance: instance_pb2.Instance) -> str:
    return instance_pb2.InstanceStatus.Name(instance.status).removeprefix("INSTANCE_STATUS_")


def seconds(of) -> float:
    return of.ToNanoseconds() / 1e9


def registers_three(fixture: Fixture) -> None:
    for request in ORDERS:
        answer = fixture.register(request)
        check(seconds(answer.ttl) == RENEWED_TTL, f"the granted TTL is {answer.ttl}")
        leases[request.id] = answer.lease_id
        again = fixture.register(request)
        check(again == answer, f"registering the same boot again returned {again} instead of {answer}")


def heartbeats_on_one_stream(fixture: Fixture) -> None:
    fixture.heartbeats = Heartbeats(fixture.writer, *leases.values())
    for report in fixture.heartbeats.renew().reports:
        check(state_of(report) == "HELD", f"a lease is {state_of(report)}")
        check(0 < seconds(report.time_left) <= RENEWED_TTL, f"{seconds(report.time_left)} s left of {RENEWED_TTL} s")
    fixture.heartbeats.start()


def watches_from_second_connection(fixture: Fixture) -> None:
    fixture.watch = Watch(fixture.reader, services=LIFECYCLE_SERVICES).synced()
    check(len(fixture.watch.instances) == len(ORDERS), f"the snapshot has {list(fixture.watch.instances)}")
    for request in ORDERS:
        seen = fixture.watch.instances.get(f"orders/{request.id}")
        check(seen, f"{request.id} is not in the snapshot")
        check(seen.registered_revision and seen.HasField("registered_at"), f"{request.id} has no registered_revision or registered_at")
        expected = instance_pb2.Instance(
            service=request.service,
            id=request.id,
            addresses=request.addresses,
            tags=request.tags,
            metadata=request.metadata,
            weight=request.weight,
            locality=request.locality,
            status=instance_pb2.INSTANCE_STATUS_SERVING,
            registered_at=seen.registered_at,
            registered_revision=seen.registered_revision,
            revision=seen.revision,
        )
        check(seen == expected, f"registered {expected}, the snapshot has {seen}")


def sees_change(fixture: Fixture) -> str:
    began = time.monotonic()
    answered = fixture.update("orders", "o-1", lease_id=leases["o-1"], weight=7, tags=["v2"])
    seen = fixture.watch.change()
    check(seen.updated == answered, f"UpdateInstance returned {answered}, the watch {seen}")
    check(answered.weight == 7 and answered.tags == ["v2"], f"the updated instance is {answered}")
    check(answered.metadata["team"] == "checkout", f"a field outside the mask changed: {answered}")
    return f"{(seen.at - began) * 1000:.2f} ms after it was sent"


def sees_drain(fixture: Fixture) -> None:
    for draining, wanted in (True, "DRAINING"), (False, "SERVING"):
        fixture.update("orders", "o-2", draining=draining)
        status = status_of(fixture.watch.updated("orders/o-2"))
        check(status == wanted, f"with draining={draining} the status is {status}")


def sees_deregistration(fixture: Fixture) -> None:
    fixture.heartbeats.drop(leases["o-3"])
    request = registry_pb2.DeregisterRequest(service="orders", id="o-3", lease_id=leases["o-3"])
    answer = fixture.registry.Deregister(request)
    check(answer.removed, "the instance was not registered")
    fixture.watch.removed("orders/o-3", "DEREGISTERED")
    check(fixture.watch.revision >= answer.revision, f"removed at revision {answer.revision}, seen at {fixture.watch.revision}")
    check(not fixture.registry.Deregister(request).removed, "a repeated deregistration removed something")


def sees_kill(fixture: Fixture) -> str:
    command = [sys.executable, os.path.join(os.path.dirname(__file__), "main.py"), "victim", fixture.server.grpc]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            fixture.watch.updated("victims/v-1")
            line = child.stdout.readline()
            check(line == "held\n", f"the child process printed {line!r}")
        finally:
            killed = time.monotonic()
            child.kill()
    after = fixture.watch.removed("victims/v-1", "EXPIRED", VICTIM_GRACE + 1 + TOLERANCE) - killed
    check(VICTIM_GRACE <= after <= VICTIM_GRACE + 1 + TOLERANCE, f"removed {after:.3f} s after the kill, with a disconnect_grace of {VICTIM_GRACE} s")
    return f"{after:.3f} s after the kill"


def sees_expiry(fixture: Fixture) -> str:
    renewed, expiring = (fixture.register(boot_of("batch", id, EXPIRING_TTL)).lease_id for id in ("b-1", "b-2"))
    fixture.watch.updated("batch/b-1")
    fixture.watch.updated("batch/b-2")
    fixture.heartbeats.add(renewed)
    fixture.heartbeats.add(expiring)
    fixture.heartbeats.renew()

    last = fixture.heartbeats.drop(expiring)
    at = fixture.watch.removed("batch/b-2", "EXPIRED", EXPIRING_TTL + 1 + TOLERANCE)
    check(at - last.sent >= EXPIRING_TTL, f"removed {at - last.sent:.3f} s after its last heartbeat: too early")
    check(at - last.answered <= EXPIRING_TTL + 1 + TOLERANCE, f"removed {at - last.answered:.3f} s after its last heartbeat: too late")

    remaining = fixture.discovery.ListInstances(discovery_pb2.ListInstancesRequest(service="batch")).instances
    check([instance.id for instance in remaining] == ["b-1"], f"the remaining instances are {remaining}")
    lease = fixture.discovery.GetInstance(discovery_pb2.GetInstanceRequest(service="batch", id="b-1")).lease
    check(lease.connected and seconds(lease.ttl) == EXPIRING_TTL, f"the renewed instance has the lease {lease}")
    check(fixture.heartbeats.error is None, f"the heartbeats stopped: {fixture.heartbeats.error}")
    return f"{at - last.answered:.3f} s after its last heartbeat"


def resumes(fixture: Fixture) -> None:
    ORDERS[2].boot_id += "-again"
    ORDERS[2].ttl.CopyFrom(duration(60))
    fixture.register(ORDERS[2])
    fixture.watch.updated("orders/o-3")
    fixture.watch.close()
    before = fixture.watch

    # While no watch is open: o-1 changes twice, o-3 is deregistered, o-4 is registered, o-5 is registered and deregistered.
    fixture.update("orders", "o-1", weight=8)
    fixture.update("orders", "o-1", weight=9)
    fixture.register(boot_of("orders", "o-4", 60))
    fixture.register(boot_of("orders", "o-5", 60))
    fixture.deregister("orders", "o-5")
    fixture.deregister("orders", "o-3")

    fixture.reader.close()
    fixture.reader = connect(fixture.server.grpc)
    fixture.watch = Watch(fixture.reader, before, services=LIFECYCLE_SERVICES, resume_token=before.token).synced()
    check(not fixture.watch.reset, f"unexpected reset: {fixture.watch.reset}")
    missed = {seen.key: seen for seen in fixture.watch.changes}
    check(len(missed) == len(fixture.watch.changes) == 3, f"expected three changes, got {fixture.watch.changes}")
    check(missed.keys() == {"orders/o-1", "orders/o-4", "orders/o-3"}, f"missed {missed}")
    check(missed["orders/o-1"].updated and missed["orders/o-1"].updated.weight == 9, f"o-1: {missed}")
    check(missed["orders/o-4"].updated, f"o-4: {missed}")
    check(missed["orders/o-3"].reason == "DEREGISTERED", f"o-3: {missed}")
    fixture.watch.changes = []

    # A change that is still outstanding would arrive before this one.
    fixture.update("orders", "o-1", weight=11)
    check(fixture.watch.updated("orders/o-1").weight == 11, "another update arrived first")
