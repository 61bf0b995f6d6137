"""Health, reflection and shutdown, with the stubs that grpcio brings."""

import grpc
from callboard.v1 import registry_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from world import Refused, Stream, Unary, World, boot_of, check

OWN_SERVICES = ["callboard.v1.RegistryService", "callboard.v1.DiscoveryService", "callboard.v1.AdminService"]


def name_of(status: int) -> str:
    return health_pb2.HealthCheckResponse.ServingStatus.Name(status)


def health(world: World) -> None:
    stub = Unary(health_pb2_grpc.HealthStub(world.reader))
    names = ["", "orders", *OWN_SERVICES]
    for name in names:
        status = name_of(stub.Check(health_pb2.HealthCheckRequest(service=name)).status)
        check(status == "SERVING", f"{name!r} is {status}")
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
        check(False, f"a service that nobody registered: {answer}")
    except Refused as refusal:
        check(refusal.error.code() == grpc.StatusCode.NOT_FOUND, f"a service that nobody registered: {refusal}")

    listed = stub.List(health_pb2.HealthListRequest()).statuses
    for name in names:
        check(name in listed and name_of(listed[name].status) == "SERVING", f"the list says of {name!r}: {listed}")


class HealthWatch:
    def __init__(self, world: World, service: str) -> None:
        request = health_pb2.HealthCheckRequest(service=service)
        self._stream = Stream(health_pb2_grpc.HealthStub(world.reader).Watch(request, timeout=120))

    def expect(self, what: str, wanted: str) -> None:
        arrival = self._stream.next()
        check(arrival.message is not None, f"{what}, the health watch has ended: {arrival.error}")
        status = name_of(arrival.message.status)
        check(status == wanted, f"{what}, it is {status}")


def watches_health(world: World) -> None:
    watch = HealthWatch(world, "newcomer")
    watch.expect("before anybody registered", "SERVICE_UNKNOWN")
    world.register(boot_of("newcomer", "n-1", 60))
    watch.expect("registered", "SERVING")
    world.update("newcomer", "n-1", draining=True)
    watch.expect("with its only instance draining", "NOT_SERVING")
    world.update("newcomer", "n-1", draining=False)
    watch.expect("no longer draining", "SERVING")
    world.deregister("newcomer", "n-1")
    watch.expect("after the last one left", "SERVICE_UNKNOWN")


def reflects(world: World) -> None:
    database = ProtoReflectionDescriptorDatabase(world.reader)
    names = list(database.get_services())
    pool = DescriptorPool(database)
    for name in [*OWN_SERVICES, "grpc.health.v1.Health"]:
        check(name in names, f"{name} is not among {names}")
        check(pool.FindServiceByName(name).methods, f"{name} has no methods")
    known = pool.FindMessageTypeByName("callboard.v1.WatchResponse").oneofs_by_name["message"].fields
    check({field.name for field in known} >= {"reset", "snapshot", "synced", "changes"}, f"a watch response is {known}")


def shuts_down(world: World) -> str:
    """Leaves every stream open: the server has to see to its own end."""
    watch = HealthWatch(world, "")
    watch.expect("before the shutdown", "SERVING")
    world.heartbeats.stop()

    code, took = world.server.terminate(6)
    check(code == 0, f"it ended with code {code} after {took:.3f} s")

    watch.expect("at the shutdown", "NOT_SERVING")
    answer = world.heartbeats.answers.next()
    check(answer.message and answer.message.notice == registry_pb2.NOTICE_RECONNECT, f"the heartbeat stream was told {answer}")
    while not world.watch.notice:
        arrival = world.watch.next()
        check(arrival.message is not None, f"the watch ended without a notice: {arrival.error}")
    check(world.watch.notice == registry_pb2.NOTICE_RECONNECT, f"the watch was told {world.watch.notice}")
    return f"after {took:.3f} s"
