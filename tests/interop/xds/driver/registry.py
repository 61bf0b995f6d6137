"""The registry under test, and registrations in it."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from callboard.v1 import discovery_pb2, discovery_pb2_grpc, instance_pb2, registry_pb2, registry_pb2_grpc
from google.protobuf.field_mask_pb2 import FieldMask

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

    def log(self) -> str:
        return self._server.log()

    def bootstrap(self, kind: str) -> str:
        """Returns a bootstrap for this kind of client."""
        return self.command("xds", "bootstrap", "--for", kind)

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
        request = boot_of(self.name, backend.id, TTL, addresses=addresses, weight=weight, **fields)
        sent = time.time_ns()
        self.registry.registry.Register(request)
        self._weights[backend.id] = weight
        return sent

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

    def drain(self, id: str) -> None:
        self.registry.command("drain", f"{self.name}/{id}")

    def wait_until_unhealthy(self, id: str, within: float = 10) -> None:
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
