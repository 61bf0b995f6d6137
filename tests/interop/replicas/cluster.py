"""Replicas of one registry, on loopback addresses of a network namespace of their own."""

import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path

from fixture import Failure, check
from server import Server

NAME = "callboard"  # resolves to all replicas
ADDRESSES = ["127.0.1.1", "127.0.1.2", "127.0.1.3"]
GRPC, HTTP, DNS = 8502, 8500, 53
ETCD, ETCD_PEER = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
ETCD_START = 20.0


class Replica:
    """A process of `callboard serve` that keeps its addresses through restarts."""

    def __init__(self, program: str, host: str, *flags: str) -> None:
        self.host, self.grpc, self.http = host, f"{host}:{GRPC}", f"{host}:{HTTP}"
        self._program, self._flags = program, flags
        self._logs = ""
        self.start()

    def start(self) -> None:
        flags = ["--dns", f"{self.host}:{DNS}", "--http-host", NAME, "--replica", self.host, *self._flags]
        self._server = Server(self._program, *flags, grpc=self.grpc, http=self.http)

    def kill(self) -> None:
        """Kills the process as `kill -9` does."""
        self._logs += self._server.log()
        self._server.kill()

    def stop(self, within: float = 10) -> None:
        """Sends SIGTERM and waits for the end."""
        code, took = self._server.terminate(within)
        self._logs += self._server.log()
        check(code == 0, f"{self.host} exited with code {code} after {took:.1f} s:\n{self._server.log()}")

    def replace(self, program: str) -> None:
        """Stops the process and starts another program."""
        self.stop()
        self._program = program
        self.start()

    def log(self) -> str:
        return self._logs + self._server.log()


class Cluster:
    """A member of etcd, and replicas over it. `registry.Service` takes it for a registry."""

    def __init__(self, program: str, scratch: Path) -> None:
        self.program, self.scratch = program, scratch
        self.environment: dict[str, str] = {}  # of the clients
        self.address = ",".join(f"{host}:{GRPC}" for host in ADDRESSES)
        with (scratch / "etcd.log").open("w") as log:
            urls = ["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]
            urls += ["--listen-peer-urls", ETCD_PEER, "--initial-advertise-peer-urls", ETCD_PEER]
            command = [os.environ["ETCD"], "--data-dir", str(scratch / "etcd"), *urls, "--unsafe-no-fsync"]
            command += ["--initial-cluster", f"default={ETCD_PEER}", "--log-level", "warn"]
            self._etcd = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self._wait_for_etcd()
        self.replicas = [Replica(program, host, "--etcd", ETCD) for host in ADDRESSES]

    def _wait_for_etcd(self) -> None:
        deadline = time.monotonic() + ETCD_START
        while True:
            try:
                with urllib.request.urlopen(f"{ETCD}/health", timeout=1) as page:
                    if json.load(page)["health"] == "true":
                        return
            except OSError as error:
                if time.monotonic() > deadline or self._etcd.poll() is not None:
                    log = (self.scratch / "etcd.log").read_text()
                    raise Failure(f"etcd does not serve ({error}): {log}") from error
            time.sleep(0.05)

    def clients(self) -> list[dict]:
        """Returns the streams of all replicas that run."""
        command = [self.program, "clients", "--output", "json", "--server", self.address]
        return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=20).stdout or "[]")

    def log(self) -> str:
        return "\n".join(f"log of {replica.host}:\n{replica.log()[-4000:]}" for replica in self.replicas)


class Servers:
    """Addresses of the replicas, as a bootstrap of xDS clients has them. `clients.Client` takes it for a registry."""

    def __init__(self, cluster: Cluster, address: str, scratch: Path) -> None:
        scratch.mkdir()
        self.scratch, self.environment = scratch, cluster.environment
        self._program, self._address = cluster.program, address

    def bootstrap(self, kind: str, *options: str) -> str:
        command = [self._program, "xds", "bootstrap", "--for", kind, *options, "--server", self._address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        check(done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}: {done.stderr}")
        return done.stdout
