"""Runs the command lines of compose.yaml on this machine, without containers, and checks that they make one registry.

Each service gets a loopback address of its own, which stands for its name, for 0.0.0.0 and for 127.0.0.1. So all ports
are those of the file, and other programs may use them. This needs Linux, where all of 127.0.0.0/8 is local."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from deployment import (
    CALLBOARD,
    IMAGE_CALLBOARD,
    command,
    compose,
    etcd_members,
    image_health_check,
    replicas,
    selected_metrics,
)

# Seconds within which three members elect a leader, and within which replicas start.
START = 30
# Seconds within which a change reaches the other replicas.
PROPAGATION = 5
# Seconds within which a member of etcd stops.
ETCD_STOP = 20


class Cluster:
    """The services of compose.yaml as processes."""

    def __init__(self, services, scratch):
        self.services, self.scratch, self.processes = services, scratch, {}
        network = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}"
        self.addresses = {name: f"{network}.{number}" for number, name in enumerate(services, 1)}
        self.programs = {"/usr/local/bin/etcd": os.environ["ETCD"], IMAGE_CALLBOARD: CALLBOARD}

    def localized(self, name, arguments):
        """Replaces names, addresses and paths inside of the container by those of this machine."""
        replaced = {**self.addresses, "0.0.0.0": self.addresses[name], "127.0.0.1": self.addresses[name]}
        for volume in self.services[name].get("volumes", []):
            replaced[volume["target"]] = str(self.scratch / name)
        # A name is a host where `/`, `=` or `,` is before it and a port behind it.
        hosts = re.compile(r"(?<![\w.-])(" + "|".join(map(re.escape, replaced)) + r")(?=[:/,]|$)(?!=)")
        # The names of members, replicas and hosts in requests stay.
        kept = ("--name=", "--replica=", "--http-host=")
        local = [argument if argument.startswith(kept) else hosts.sub(lambda found: replaced[found[1]], argument)
                 for argument in arguments]
        return [self.programs[local[0]], *local[1:]]

    def start(self, name):
        log = (self.scratch / f"{name}.log").open("w")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CALLBOARD_")}
        line = self.localized(name, command(self.services[name]))
        print(f"        {name}: {' '.join(line)}", flush=True)
        self.processes[name] = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def stop(self, name, seconds):
        """Sends SIGTERM and returns the exit code. Fails if the process does not exit in time."""
        began = time.monotonic()
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.fail(name, f"did not exit within {seconds} s of SIGTERM")
        print(f"        {name}: exited with {code} in {time.monotonic() - began:.1f} s", flush=True)
        return code

    def kill(self):
        for process in self.processes.values():
            process.kill()
            process.wait()

    def fail(self, name, reason):
        log = (self.scratch / f"{name}.log").read_text(errors="replace").splitlines()
        raise SystemExit("\n".join([f"{name} {reason}; its last lines:", *log[-20:]]))

    def wait_for(self, name, reason, seconds, condition):
        """Waits until a condition of another process holds, which no event announces."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.processes[name].poll() is not None:
                self.fail(name, f"exited with {self.processes[name].returncode}")
            if time.monotonic() > deadline:
                self.fail(name, f"{reason} within {seconds} s")
            time.sleep(0.05)

    def get(self, name, port, path, host=None):
        """Returns the body of a page, or nothing if it is not answered with 200."""
        request = urllib.request.Request(f"http://{self.addresses[name]}:{port}{path}")
        if host:
            request.add_header("Host", host)
        try:
            with urllib.request.urlopen(request, timeout=3) as response:
                return response.read().decode()
        except (OSError, urllib.error.URLError):
            return None

    def client(self, name, *arguments):
        """Returns the command line of a client of a replica."""
        return [CALLBOARD, *arguments, "--server", f"{self.addresses[name]}:8502"]


def ports_are_free(cluster):
    for address in cluster.addresses.values():
        for port in [2379, 2380, 8500, 8502, 8503, 8600]:
            with socket.socket() as free:
                try:
                    free.bind((address, port))
                except OSError as error:
                    raise SystemExit(f"a program listens on port {port} of all addresses, 0.0.0.0: {error}") from error


def etcd_elects_a_leader(cluster, members):
    for name in members:
        cluster.start(name)
    for name in members:
        cluster.wait_for(name, "was not healthy", START, lambda: '"true"' in (cluster.get(name, 2379, "/health") or ""))
    leaders = {json.loads(status(cluster, name))["leader"] for name in members}
    if len(leaders) != 1:
        raise SystemExit(f"the members see several leaders: {leaders}")


def status(cluster, name):
    url = f"http://{cluster.addresses[name]}:2379/v3/maintenance/status"
    with urllib.request.urlopen(urllib.request.Request(url, data=b"{}"), timeout=3) as response:
        return response.read()


def replicas_become_ready(cluster, nodes):
    for name in nodes:
        cluster.start(name)
    for name in nodes:
        probe = cluster.localized(name, image_health_check())
        healthy = lambda: subprocess.run(probe, capture_output=True, check=False).returncode == 0  # noqa: E731
        cluster.wait_for(name, "was not healthy", START, healthy)
        # As Prometheus calls it, by its name.
        if cluster.get(name, 8500, "/readyz", f"{name}:8500") is None:
            cluster.fail(name, "answers the health check, but not /readyz")


def instances(cluster, name):
    listing = subprocess.run(cluster.client(name, "instances", "web", "-o", "json"), capture_output=True, text=True, check=False)
    return {instance["id"] for instance in json.loads(listing.stdout)} if listing.returncode == 0 else set()


@contextlib.contextmanager
def registered(cluster, name, identifier):
    """Registers an instance, as long as the block runs."""
    line = cluster.client(name, "register", "web", "127.0.0.1:9001", "--id", identifier)
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def registration_is_seen_everywhere(cluster, nodes):
    for name in nodes:
        with registered(cluster, name, f"at-{name}") as process:
            for other in nodes:
                cluster.wait_for(other, f"did not list the instance that registered at {name}", PROPAGATION,
                                 lambda: f"at-{name}" in instances(cluster, other))
            process.send_signal(signal.SIGINT)
            process.wait(timeout=PROPAGATION)
            for other in nodes:
                cluster.wait_for(other, f"did not remove the instance that deregistered at {name}", PROPAGATION,
                                 lambda: f"at-{name}" not in instances(cluster, other))


def metrics_of_etcd_exist(cluster, members):
    """The dashboard and the alerts use metrics of etcd that it has."""
    wanted = {name for name in selected_metrics() if name.startswith("etcd_")}
    offered = set(re.findall(r"^(\w+)", cluster.get(members[0], 2379, "/metrics"), flags=re.MULTILINE))
    if not wanted or wanted - offered:
        raise SystemExit(f"etcd has no such metrics: {wanted - offered or 'none was found'}")


def replicas_stop_one_after_the_other(cluster, nodes):
    """An instance stays listed at the last replica while the others stop, the one that it registered at too."""
    *first, last = nodes
    grace = {name: int(cluster.services[name]["stop_grace_period"].removesuffix("s")) for name in nodes}
    with registered(cluster, last, "stays"):
        cluster.wait_for(last, "did not list the instance", PROPAGATION, lambda: "stays" in instances(cluster, last))
        for name in first:
            if code := cluster.stop(name, grace[name]):
                raise SystemExit(f"{name} exited with {code}")
            if "stays" not in instances(cluster, last):
                cluster.fail(last, f"lost an instance when {name} stopped")
    if code := cluster.stop(last, grace[last]):
        raise SystemExit(f"{last} exited with {code}")


def main():
    services = compose()
    members, nodes = list(etcd_members(services)), list(replicas(services))
    tested = subprocess.run([os.environ["ETCD"], "--version"], capture_output=True, text=True, check=True).stdout
    image = services[members[0]]["image"].rsplit(":v", 1)[1]
    if f"etcd Version: {image}\n" not in tested:
        raise SystemExit(f"compose.yaml runs etcd {image}, and this is {tested.splitlines()[0]}")
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(services, Path(directory))
        for name in members:
            (Path(directory) / name).mkdir(mode=0o700)
        try:
            ports_are_free(cluster)
            etcd_elects_a_leader(cluster, members)
            replicas_become_ready(cluster, nodes)
            registration_is_seen_everywhere(cluster, nodes)
            metrics_of_etcd_exist(cluster, members)
            replicas_stop_one_after_the_other(cluster, nodes)
            for name in members:
                # etcd ends itself by the signal, as programs without a handler do.
                if cluster.stop(name, ETCD_STOP) not in (0, -signal.SIGTERM):
                    raise SystemExit(f"{name} did not stop in order")
        finally:
            cluster.kill()


if __name__ == "__main__":
    os.environ.pop("CALLBOARD_SERVER", None)
    sys.exit(main())
