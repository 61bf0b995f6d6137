"""The story: three instances of `orders` that one stream keeps alive, and a watch that follows them."""

import os
import subprocess
import sys
import time

from callboard.v1 import discovery_pb2, instance_pb2, registry_pb2
from watch import Watch
from world import SLACK, VICTIM_GRACE, Heartbeats, World, boot_of, check, connect, duration, state_of

KEPT_TTL = 3.0
FADING_TTL = 2.0

# Victims and fading instances have services of their own: a service of three or more would be protected from losing many at once.
SELECTION = ["orders", "batch", "victims"]

ORDERS = [
    boot_of(
        "orders",
        f"o-{slot + 1}",
        KEPT_TTL,
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
leases: dict[str, bytes] = {}  # of `orders`, by id


def status_of(instance: instance_pb2.Instance) -> str:
    return instance_pb2.InstanceStatus.Name(instance.status).removeprefix("INSTANCE_STATUS_")


def seconds(of) -> float:
    return of.ToNanoseconds() / 1e9


def registers_three(world: World) -> None:
    for request in ORDERS:
        answer = world.register(request)
        check(seconds(answer.ttl) == KEPT_TTL, f"granted {answer.ttl}")
        leases[request.id] = answer.lease_id
        again = world.register(request)
        check(again == answer, f"registering again answered {again} instead of {answer}")


def heartbeats_on_one_stream(world: World) -> None:
    world.heartbeats = Heartbeats(world.writer, *leases.values())
    for report in world.heartbeats.beat().reports:
        check(state_of(report) == "HELD", f"a lease is {state_of(report)}")
        check(0 < seconds(report.time_left) <= KEPT_TTL, f"{seconds(report.time_left)} s left of {KEPT_TTL} s")
    world.heartbeats.start()


def watches_from_second_connection(world: World) -> None:
    world.watch = Watch(world.reader, services=SELECTION).synced()
    check(len(world.watch.held) == len(ORDERS), f"the snapshot holds {list(world.watch.held)}")
    for request in ORDERS:
        seen = world.watch.held.get(f"orders/{request.id}")
        check(seen, f"{request.id} is not in the snapshot")
        check(seen.registered_revision and seen.HasField("registered_at"), f"{request.id} does not say when it came")
        wanted = instance_pb2.Instance(
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
        check(seen == wanted, f"registered {wanted}, the snapshot says {seen}")


def sees_change(world: World) -> str:
    began = time.monotonic()
    answered = world.update("orders", "o-1", lease_id=leases["o-1"], weight=7, tags=["v2"])
    seen = world.watch.change()
    check(seen.updated == answered, f"the writer was told {answered}, the watcher {seen}")
    check(answered.weight == 7 and answered.tags == ["v2"], f"changed to {answered}")
    check(answered.metadata["team"] == "checkout", f"a field outside the mask changed: {answered}")
    return f"{(seen.at - began) * 1000:.2f} ms after it was sent"


def sees_drain(world: World) -> None:
    for draining, wanted in (True, "DRAINING"), (False, "SERVING"):
        world.update("orders", "o-2", draining=draining)
        status = status_of(world.watch.updated("orders/o-2"))
        check(status == wanted, f"with draining={draining} it is {status}")


def sees_deregistration(world: World) -> None:
    world.heartbeats.drop(leases["o-3"])
    goodbye = registry_pb2.DeregisterRequest(service="orders", id="o-3", lease_id=leases["o-3"])
    answer = world.registry.Deregister(goodbye)
    check(answer.removed, "it was not there")
    world.watch.removed("orders/o-3", "DEREGISTERED")
    check(world.watch.revision >= answer.revision, f"removed at {answer.revision}, told at {world.watch.revision}")
    check(not world.registry.Deregister(goodbye).removed, "a second goodbye removed something")


def sees_kill(world: World) -> str:
    command = [sys.executable, os.path.join(os.path.dirname(__file__), "main.py"), "victim", world.server.grpc]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            world.watch.updated("victims/v-1")
            said = child.stdout.readline()
            check(said == "held\n", f"the victim said {said!r}")
        finally:
            killed = time.monotonic()
            child.kill()
    after = world.watch.removed("victims/v-1", "EXPIRED", VICTIM_GRACE + 1 + SLACK) - killed
    check(VICTIM_GRACE <= after <= VICTIM_GRACE + 1 + SLACK, f"gone {after:.3f} s after the kill, with a grace of {VICTIM_GRACE} s")
    return f"{after:.3f} s after it"


def sees_expiry(world: World) -> str:
    kept, fading = (world.register(boot_of("batch", id, FADING_TTL)).lease_id for id in ("b-1", "b-2"))
    world.watch.updated("batch/b-1")
    world.watch.updated("batch/b-2")
    world.heartbeats.add(kept)
    world.heartbeats.add(fading)
    world.heartbeats.beat()

    last = world.heartbeats.drop(fading)
    at = world.watch.removed("batch/b-2", "EXPIRED", FADING_TTL + 1 + SLACK)
    check(at - last.sent >= FADING_TTL, f"gone {at - last.sent:.3f} s after its last heartbeat: too early")
    check(at - last.answered <= FADING_TTL + 1 + SLACK, f"gone {at - last.answered:.3f} s after its last heartbeat: too late")

    left = world.discovery.ListInstances(discovery_pb2.ListInstancesRequest(service="batch")).instances
    check([instance.id for instance in left] == ["b-1"], f"left are {left}")
    lease = world.discovery.GetInstance(discovery_pb2.GetInstanceRequest(service="batch", id="b-1")).lease
    check(lease.connected and seconds(lease.ttl) == FADING_TTL, f"what is kept alive has the lease {lease}")
    check(world.heartbeats.wrong is None, f"the heartbeats stopped: {world.heartbeats.wrong}")
    return f"{at - last.answered:.3f} s after its last heartbeat"


def resumes(world: World) -> None:
    ORDERS[2].boot_id += "-again"
    ORDERS[2].ttl.CopyFrom(duration(60))
    world.register(ORDERS[2])
    world.watch.updated("orders/o-3")
    world.watch.close()
    before = world.watch

    # Away. Two changes of one instance, a newcomer, one that leaves, and one that comes and goes.
    world.update("orders", "o-1", weight=8)
    world.update("orders", "o-1", weight=9)
    world.register(boot_of("orders", "o-4", 60))
    world.register(boot_of("orders", "o-5", 60))
    world.deregister("orders", "o-5")
    world.deregister("orders", "o-3")

    world.reader.close()
    world.reader = connect(world.server.grpc)
    world.watch = Watch(world.reader, before, services=SELECTION, resume_token=before.token).synced()
    check(not world.watch.reset, f"reset: {world.watch.reset}")
    missed = {seen.key: seen for seen in world.watch.changes}
    check(len(missed) == len(world.watch.changes) == 3, f"missed three changes, was told of {world.watch.changes}")
    check(missed.keys() == {"orders/o-1", "orders/o-4", "orders/o-3"}, f"missed {missed}")
    check(missed["orders/o-1"].updated and missed["orders/o-1"].updated.weight == 9, f"o-1: {missed}")
    check(missed["orders/o-4"].updated, f"o-4: {missed}")
    check(missed["orders/o-3"].reason == "DEREGISTERED", f"o-3: {missed}")
    world.watch.changes = []

    # Whatever else were still to come would come before this.
    world.update("orders", "o-1", weight=11)
    check(world.watch.updated("orders/o-1").weight == 11, "something else came first")
