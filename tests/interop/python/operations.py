"""Health, reflection and shutdown, with the stubs of grpcio's own packages."""

import grpc
from callboard.v1 import registry_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from fixture import CallFailed, Fixture, Stream, Unary, boot_of, check

OWN_SERVICES = ["callboard.v1.RegistryService", "callboard.v1.DiscoveryService", "callboard.v1.AdminService"]


def name_of(status: int) -> str:
    return health_pb2.HealthCheckResponse.ServingStatus.Name(status)


def health(fixture: Fixture) -> None:
    stub = Unary(health_pb2_grpc.HealthStub(fixture.reader))
    names = ["", "orders", *OWN_SERVICES]
    for name in names:
        status = name_of(stub.Check(health_pb2.HealthCheckRequest(service=name)).status)
        check(status == "SERVING", f"{name!r} is {status}")
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
        check(False, f"Check of an unknown service: {answer}")
    except CallFailed as failed:
        check(failed.error.code() == grpc.StatusCode.NOT_FOUND, f"Check of an unknown service: {failed}")

    listed = stub.List(health_pb2.HealthListRequest()).statuses
    for name in names:
        check(name in listed and name_of(listed[name].status) == "SERVING", f"List does not report {name!r} as SERVING: {listed}")


class HealthWatch:
    def __init__(self, fixture: Fixture, service: str) -> None:
        request = health_pb2.HealthCheckRequest(service=service)
        self._stream = Stream(health_pb2_grpc.HealthStub(fixture.reader).Watch(request, timeout=120))

    def expect(self, what: str, wanted: str) -> None:
        arrival = self._stream.next()
        check(arrival.message is not None, f"{what}: the health watch has ended: {arrival.error}")
        status = name_of(arrival.message.status)
        check(status == wanted, f"{what}: the status is {status}")


def watches_health(fixture: Fixture) -> None:
    watch = HealthWatch(fixture, "newcomer")
    watch.expect("before the registration", "SERVICE_UNKNOWN")
    fixture.register(boot_of("newcomer", "n-1", 60))
    watch.expect("after the registration", "SERVING")
    fixture.update("newcomer", "n-1", draining=True)
    watch.expect("with its only instance draining", "NOT_SERVING")
    fixture.update("newcomer", "n-1", draining=False)
    watch.expect("after the end of the drain", "SERVING")
    fixture.deregister("newcomer", "n-1")
    watch.expect("after the deregistration", "SERVICE_UNKNOWN")


def reflects(fixture: Fixture) -> None:
    database = ProtoReflectionDescriptorDatabase(fixture.reader)
    names = list(database.get_services())
    pool = DescriptorPool(database)
    for name in [*OWN_SERVICES, "grpc.health.v1.Health"]:
        check(name in names, f"{name} is not among {names}")
        check(pool.FindServiceByName(name).methods, f"{name} has no methods")
    known = pool.FindMessageTypeByName("callboard.v1.WatchResponse").oneofs_by_name["message"].fields
    check({field.name for field in known} >= {"reset", "snapshot", "synced", "changes"}, f"the fields of WatchResponse are {known}")


def shuts_down(fixture: Fixture) -> str:
    """Leaves every stream open: the server has to exit without waiting for the clients."""
    watch = HealthWatch(fixture, "")
    watch.expect("before the shutdown", "SERVING")
    fixture.heartbeats.stop()

    code, took = fixture.server.terminate(6)
    check(code == 0, f"the server exited with code {code} after {took:.3f} s")

    watch.expect("after the shutdown", "NOT_SERVING")
    answer = fixture.heartbeats.answers.next()
    check(answer.message and answer.message.notice == registry_pb2.NOTICE_RECONNECT, f"the message on the heartbeat stream is {answer}")
    while not fixture.watch.notice:
        arrival = fixture.watch.next()
        check(arrival.message is not None, f"the watch ended without a notice: {arrival.error}")
    check(fixture.watch.notice == registry_pb2.NOTICE_RECONNECT, f"the notice on the watch is {fixture.watch.notice}")
    return f"after {took:.3f} s"
