"""Replaces three replicas by those of another version, one after the other, and back, while clients use them. Checks that each
version keeps what the other one has stored. README.md describes the suite."""

import argparse
import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from pathlib import Path

from callboard.v1 import discovery_pb2, discovery_pb2_grpc, instance_pb2, registry_pb2, registry_pb2_grpc
from fixture import Failure, Unary, boot_of, check, connect, duration
from google.protobuf.field_mask_pb2 import FieldMask
from lines import LineProcess
from outages import even_load
from registry import Service

from cluster import ETCD, GRPC, HTTP, NAME, Cluster, Replica, Servers
from consul_programs import Tutorial
from observers import SERVICE, Resolver, Witness
from parts import ORPHAN_TIME, PROGRAMS, WINDOW, Part, backend, observed, step

UPDATED = "updated"  # service whose instance both versions write
KEY = b"/callboard/v1/default/i/updated/u"
RECORD = 4  # number of the field with the record of an instance
SEEN = 20.0  # seconds until a replica has a change


def fields(message: bytes, nested: int | None = None) -> set[tuple[int, ...]]:
    """Returns the paths of the fields of a message, and of one nested message."""
    paths, at = set(), 0

    def varint() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        number = tag >> 3
        paths.add((number,))
        match tag & 7:
            case 0:
                varint()
            case 1:
                at += 8
            case 2:
                length = varint()
                at += length
                if number == nested:
                    paths |= {(number, *path) for path in fields(message[at - length : at])}
            case 5:
                at += 4
            case kind:
                raise Failure(f"a field has the type {kind}: {message.hex()}")
    return paths


def stored() -> set[tuple[int, ...]]:
    """Returns the paths of the fields in the value of the instance."""
    request = urllib.request.Request(
        f"{ETCD}/v3/kv/range", data=json.dumps({"key": base64.b64encode(KEY).decode()}).encode()
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        [entry] = json.load(response)["kvs"]
    return fields(base64.b64decode(entry["value"]), nested=RECORD)


class Writers:
    """Replicas that write one instance in turn. Fields that only the other version knows must stay in its value."""

    def __init__(self, cluster: Cluster) -> None:
        self._replicas = cluster.replicas
        self._weight = 1
        first = Unary(registry_pb2_grpc.RegistryServiceStub(connect(cluster.replicas[0].grpc)))
        ttl_check = instance_pb2.Check(ttl=instance_pb2.TtlProbe(), interval=duration(3600), initial_status="CHECK_STATUS_PASSING")
        more = {"tags": ["blue"], "metadata": {"version": "1"}, "locality": instance_pb2.Locality(region="r1", zone="z1")}
        first.Register(boot_of(UPDATED, "u", 3600, checks=[ttl_check], **more))
        drain = [cluster.program, "drain", f"{UPDATED}/u", "--server", cluster.address]
        subprocess.run(drain, check=True, stdout=subprocess.DEVNULL, timeout=20)
        self._expected = self._read(cluster.replicas[0])
        check(self._expected.status == instance_pb2.INSTANCE_STATUS_DRAINING, f"not drained: {self._expected}")
        self._known = stored()
        for _ in range(2):
            self._known |= self.write()
        self.added: set[tuple[int, ...]] = set()  # fields of the later version

    def _read(self, replica: Replica) -> instance_pb2.Instance:
        """Returns the instance at a replica, without what each write changes."""
        stub = Unary(discovery_pb2_grpc.DiscoveryServiceStub(connect(replica.grpc)))
        instance = stub.GetInstance(discovery_pb2.GetInstanceRequest(service=UPDATED, id="u")).instance
        for field in ("weight", "revision"):
            instance.ClearField(field)
        return instance

    def write(self) -> set[tuple[int, ...]]:
        """Lets each replica write; returns the fields that were written."""
        written: set[tuple[int, ...]] = set()
        for replica in self._replicas:
            self._weight = self._weight % 100 + 1
            update(replica, self._weight)
            written |= stored()
        return written

    def check(self) -> None:
        """Lets each replica write, and checks that fields of the later version are kept."""
        for replica in self._replicas:
            before = stored() - self._known
            self._weight = self._weight % 100 + 1
            update(replica, self._weight)
            now = stored() - self._known
            check(before <= now, f"{replica.host} dropped the fields {before - now}")
            self.added |= now
        for replica in self._replicas:
            instance = self._read(replica)
            check(instance == self._expected, f"{replica.host} has {instance} instead of {self._expected}")


def update(replica: Replica, weight: int) -> None:
    """Changes an instance, so that the version of this replica writes its record."""
    stub = Unary(registry_pb2_grpc.RegistryServiceStub(connect(replica.grpc)))
    request = registry_pb2.UpdateInstanceRequest(
        service=UPDATED, id="u", weight=weight, update_mask=FieldMask(paths=["weight"])
    )
    answer = stub.UpdateInstance(request)
    check(answer.instance.weight == weight, f"the weight is {answer.instance.weight}, not {weight}")


def upgrade(cluster: Cluster, versions: list[tuple[str, str]], part: Part, scratch: Path) -> None:
    service = Service(cluster, SERVICE)
    # Half of the programs are of each version.
    for id, (_, program) in zip("abcd", versions * 2):
        cluster.program = program
        service.renew(backend(scratch, id))
    service.wait_until_registered(*"abcd")
    writers = Writers(cluster)
    part.fleet.start()
    part.fleet.each(lambda client: client.sees(*"abcd"))
    tutorial = Tutorial(PROGRAMS, f"{NAME}:{HTTP}", cluster.replicas[1].http, scratch / "tutorial.log")
    witnesses, resolver = [Witness(replica) for replica in cluster.replicas], Resolver()
    with observed([*witnesses, resolver]), contextlib.ExitStack() as loads:
        loads.enter_context(even_load(part, part.fleet, "abcd", WINDOW))
        for title, program in [versions[1], versions[0]]:
            for number, replica in enumerate(cluster.replicas, 1):
                step(f"replaces {replica.host} by {title}")
                replica.replace(program)
                id = f"{title}{number}"
                cluster.program = program
                service.renew(backend(scratch, id))
                part.uses(id, SEEN)
                for witness in witnesses:
                    witness.sees(id, SEEN)
                writers.check()
                tutorial.goes_on()
        step("waits until nothing may be removed any more")
        time.sleep(ORPHAN_TIME)
        tutorial.goes_on()
        tutorial.changes()
    print(f"fields of the new version in the value of an instance: {sorted(writers.added) or 'none'}")
    print(f"{resolver.answers} answers of DNS, the slowest after {resolver.slowest:.2f} s")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/interop/replicas/upgrade")
    parser.add_argument("other", help="program of another version")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="callboard-upgrade-") as directory:
        scratch = Path(directory)
        cluster = Cluster(options.other, scratch)
        versions = [("old", options.other), ("new", os.environ["CALLBOARD"])]
        part = Part("one name", Servers(cluster, f"{NAME}:{GRPC}", scratch / "name"), ["go", "python"])
        failures = []
        try:
            upgrade(cluster, versions, part, scratch)
        except Exception as error:
            failures.append(str(error) if isinstance(error, Failure) else traceback.format_exc())
        finally:
            LineProcess.kill_all()
        failures += [f"{name}: {result.failure}" for name, result in part.results.items() if result.failure]
        if failures:
            print(cluster.log(), file=sys.stderr)
        print("\n".join([*(f"{name}: {result}" for name, result in part.results.items()), *failures, f"{len(failures)} failed"]))
        return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
