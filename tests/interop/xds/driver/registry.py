"""The registry under test, and registrations in it."""

import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from callboard.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    discovery_pb2,
    discovery_pb2_grpc,
    instance_pb2,
    registry_pb2,
    registry_pb2_grpc,
    xds_pb2,
    xds_pb2_grpc,
)
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from backends import Backend
from fixture import Unary, boot_of, check, connect, duration
from lines import LineProcess
from server import Server

TTL = 3600  # seconds; registrations without a program that renews them outlive the suite
REREGISTER_TIMEOUT = 20.0


class Registry:
    """A process of `callboard serve` that keeps its port through restarts."""

    def __init__(self, program: str, scratch: Path, *flags: str) -> None:
        self.program, self.scratch, self._flags = program, scratch, flags
        self._connect(Server(program, "--dns", "off", *flags))
        self.address: str = self._server.grpc
        self.tls_address = self._server.grpc_tls
        self.environment: dict[str, str] = {}  # of the clients

    def _connect(self, server: Server) -> None:
        self._server = server
        self.channel = connect(server.grpc)
        self.registry = Unary(registry_pb2_grpc.RegistryServiceStub(self.channel))
        self.discovery = Unary(discovery_pb2_grpc.DiscoveryServiceStub(self.channel))
        self.admin = Unary(admin_pb2_grpc.AdminServiceStub(self.channel))
        self.xds = Unary(xds_pb2_grpc.XdsServiceStub(self.channel))

    def stop(self) -> None:
        """Sends SIGTERM and waits for the end."""
        self.channel.close()
        code, took = self._server.terminate(within=10)
        check(code == 0, f"the registry exited with code {code} after {took:.1f} s:\n{self._server.log()}")

    def kill(self) -> None:
        self.channel.close()
        self._server.kill()

    def start(self) -> None:
        self._connect(Server(self.program, "--dns", "off", *self._flags, grpc=self.address))

    def xds_streams(self) -> int:
        """Returns the number of open xDS streams."""
        return sum(client["protocol"] == "xds" for client in json.loads(self.command("clients", "--output", "json")))

    def metric(self, sample: str) -> float:
        """Returns the value of a sample, named with its labels as in the text format."""
        with urllib.request.urlopen(f"http://{self._server.http}/metrics", timeout=10) as page:
            values = [line.split()[-1] for line in page.read().decode().splitlines() if line.startswith(f"{sample} ")]
        check(len(values) == 1, f"{len(values)} samples {sample}")
        return float(values[0])

    def log(self) -> str:
        return self._server.log()

    def bootstrap(self, kind: str, *options: str) -> str:
        """Returns a bootstrap for this kind of client."""
        return self.command("xds", "bootstrap", "--for", kind, *options)

    def command(self, *arguments: str, server: str | None = None) -> str:
        """Runs a command of the program against this registry; returns its output."""
        command = [self.program, *arguments, "--server", server or self.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        check(done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}: {done.stderr}")
        return done.stdout


class Service:
    """Registrations of one service. An instance has the id of its backend."""

    def __init__(self, registry: Registry, name: str) -> None:
        self.registry, self.name = registry, name
        self._weights: dict[str, int] = {}  # of the instances that nothing renews
        self.leases: dict[str, bytes] = {}  # of the same instances
        self._registered: dict[str, float] = {}  # times of their registrations
        self._renewed: dict[str, LineProcess] = {}  # `callboard register`, by instance

    def become(self, *backends: Backend) -> None:
        """Makes these the only instances, with weight 1, none draining."""
        wanted = {backend.id: backend for backend in backends}
        for id in list(self._renewed):
            self.stop_renewing(id)
        for id in set(self._weights) - set(wanted):
            self.remove(id)
        for id, backend in wanted.items():
            if id in self._weights:
                self.update(id, weight=1, draining=False)
            else:
                self.add(backend)

    def add(self, backend: Backend, weight: int = 1, **fields: Any) -> int:
        """Registers a backend; returns the Unix time in nanoseconds at which the request was sent."""
        addresses = fields.pop("addresses", [instance_pb2.Address(host="127.0.0.1", port=backend.port)])
        fields = {**backend.labels, **fields}
        request = boot_of(self.name, backend.id, TTL, addresses=addresses, weight=weight, **fields)
        sent = time.time_ns()
        self.leases[backend.id] = self.registry.registry.Register(request).lease_id
        self._weights[backend.id] = weight
        self._registered[backend.id] = time.monotonic()
        return sent

    def wait_for_age(self, seconds: float) -> None:
        """Waits until all instances have been registered for this time."""
        youngest = max(self._registered[id] for id in self._weights)
        time.sleep(max(0, youngest + seconds - time.monotonic()))

    def add_checked(self, backend: Backend) -> None:
        """Registers a backend with a TCP check each second."""
        check = instance_pb2.Check(
            tcp=instance_pb2.TcpProbe(target=backend.address),
            interval=duration(1),
            timeout=duration(1),
            initial_status=instance_pb2.CHECK_STATUS_PASSING,
        )
        self.add(backend, checks=[check])

    def remove(self, id: str) -> int:
        """Deregisters an instance; returns the Unix time in nanoseconds at which the response arrived."""
        answer = self.registry.registry.Deregister(registry_pb2.DeregisterRequest(service=self.name, id=id))
        returned = time.time_ns()
        check(answer.removed, f"{self.name}/{id} was not registered")
        self._weights.pop(id, None)
        return returned

    def update(self, id: str, **fields: Any) -> None:
        self.registry.registry.UpdateInstance(
            registry_pb2.UpdateInstanceRequest(service=self.name, id=id, update_mask=FieldMask(paths=fields), **fields)
        )

    def set_policy(self, **fields: Any) -> int:
        """Replaces the policy of the service, and returns its revision. Without fields, the policy is removed."""
        document = Struct()
        document.update(fields)
        return self.registry.admin.SetPolicy(admin_pb2.SetPolicyRequest(service=self.name, policy=document)).revision

    def unsynced(self, within: float, besides: frozenset[str] | set[str] = frozenset()) -> dict[str, str]:
        """Waits until all clients have the policy, besides some; returns the node ids of those that have not, with the reasons."""
        deadline = time.monotonic() + within
        request = xds_pb2.GetPolicyRolloutRequest(service=self.name)
        while True:
            rollout = self.registry.xds.GetPolicyRollout(request)
            unsynced = {stream.node_id: f"{stream.agent}: {stream.reason}" for stream in rollout.unsynced}
            others = {node: reason for node, reason in unsynced.items() if node not in besides}
            if not others or time.monotonic() >= deadline:
                return others
            time.sleep(0.02)

    def drain(self, id: str) -> None:
        self.registry.command("drain", f"{self.name}/{id}")

    def wait_until_unhealthy(self, id: str, within: float = 60) -> None:
        deadline = time.monotonic() + within
        request = discovery_pb2.GetInstanceRequest(service=self.name, id=id)
        while self.registry.discovery.GetInstance(request).instance.status != instance_pb2.INSTANCE_STATUS_UNHEALTHY:
            check(time.monotonic() < deadline, f"{self.name}/{id} is not UNHEALTHY after {within:.0f} s")
            time.sleep(0.02)

    def renew(self, backend: Backend) -> None:
        """Starts `callboard register`, which registers the backend and renews its lease, also after restarts."""
        registry = self.registry
        command = [registry.program, "register", self.name, backend.address, "--id", backend.id]
        command += ["--server", registry.address, "--output", "json"]
        for key, value in backend.labels.get("metadata", {}).items():
            command += ["--meta", f"{key}={value}"]
        self._renewed[backend.id] = LineProcess(f"callboard register {backend.id}", command, registry.scratch / "register.log")

    def wait_until_registered(self, *ids: str, within: float = REREGISTER_TIMEOUT) -> None:
        """Waits for the next registration by each of these programs."""
        for id in ids:
            while self._renewed[id].next(within)["type"] != "registered":
                pass

    @contextlib.contextmanager
    def paused_renewal(self, id: str) -> Iterator[None]:
        """Pauses `callboard register` of a backend; at the end it continues, and registers again."""
        self._renewed[id].pause()
        try:
            yield
        finally:
            self._renewed[id].resume()
        self.wait_until_registered(id)

    def stop_renewing(self, id: str) -> None:
        """Stops `callboard register`, which deregisters the instance."""
        code = self._renewed.pop(id).terminate(within=10)
        check(code == 0, f"`callboard register` of {id} exited with code {code}")
