"""Kills each replica once, while all kinds of clients use them by one name or by a list. README.md describes the suite."""

import argparse
import contextlib
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import report
from clients import CLIENT_TYPES
from fixture import Failure
from lines import LineProcess
from outages import even_load
from registry import Service
from world import Difference, Result

from cluster import GRPC, HTTP, NAME, Cluster, Servers
from consul_programs import Tutorial
from observers import SERVICE, Follower, Resolver, Witness
from parts import ORPHAN_TIME, PROGRAMS, WINDOW, Part, backend, observed, step

ALL_CLIENTS = set(CLIENT_TYPES) - {"go-1.44", "node-1.14.0", "envoy-delta", "rust"}
INTEROP = Path(__file__).parents[1]
LANGUAGES = ["go", "java", "node", "python"]  # of the native clients
TABLE = "replicas"
SESSION_TIME = 15.0  # seconds after the end of a replica in which its session expires
FAILOVER = 60.0  # maximum time in seconds until a client has a change of another replica; C-core 1.51 reads rarely under load
NATIVE_RESOLVER = Difference("With `GRPC_DNS_RESOLVER=native` only: the client's own resolver answers only while calls wait.")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/interop/replicas/run")
    parser.add_argument("--write", action="store_true", help="copy the table to the book")
    parser.add_argument("names", nargs="+", choices=CLIENT_TYPES, metavar="CLIENT")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="callboard-replicas-") as scratch:
        try:
            return run(options, Path(scratch))
        finally:
            LineProcess.kill_all()


def run(options: argparse.Namespace, scratch: Path) -> int:
    names = [name for name in CLIENT_TYPES if name in options.names]
    cluster = Cluster(os.environ["CALLBOARD"], scratch)
    parts = [
        Part("one name", Servers(cluster, f"{NAME}:{GRPC}", scratch / "name"), names),
        Part("list", Servers(cluster, cluster.address, scratch / "list"), names),
    ]
    by_name, _ = parts
    failures: list[str] = []
    try:
        kill_replicas(cluster, parts, scratch)
    except Exception as error:
        failures.append(str(error) if isinstance(error, Failure) else traceback.format_exc())
    for name, result in by_name.results.items():
        if CLIENT_TYPES[name].native_resolver and not result.failure:
            result.difference = NATIVE_RESOLVER
    results = {part.title: {name: part.results[name] for name in names} for part in parts}
    for title, by_client in results.items():
        for name, result in by_client.items():
            print(f"{title}, {name}: {result}")
    failures += report.failures({"xDS": results})
    report.add_versions(parts[0].versions)
    table = report.results(results)
    print("", table, "", sep="\n\n")
    if options.write:
        report.copy(TABLE, table)
    elif not failures and set(names) == ALL_CLIENTS and report.copied(TABLE) != table:
        failures.append(f"{report.PAGE} has another table: run tests/interop/replicas/run --write")
    if failures:
        print(cluster.log(), file=sys.stderr)
    print("\n".join([*failures, f"{len(failures)} failed"]), flush=True)
    report.add_failures(failures, "replicas")
    return 1 if failures else 0


def kill_replicas(cluster: Cluster, parts: list[Part], scratch: Path) -> None:
    service = Service(cluster, SERVICE)
    for id in "abcd":
        service.renew(backend(scratch, id))
    service.wait_until_registered(*"abcd")
    by_name, by_list = parts
    witnesses = [Witness(replica) for replica in cluster.replicas]
    followers = [
        Follower(language, INTEROP / language / "follow", scratch / f"{language}.log") for language in LANGUAGES
    ]
    for part in parts:
        part.fleet.start()
        part.fleet.each(lambda client: client.sees(*"abcd"))
    tutorial = Tutorial(PROGRAMS, f"{NAME}:{HTTP}", cluster.replicas[1].http, scratch / "tutorial.log")
    resolver = Resolver()
    first, *others = cluster.replicas
    with observed([*witnesses, resolver]), contextlib.ExitStack() as loads:
        for observer in [*followers, *witnesses]:
            for id in "abcd":
                observer.sees(id, FAILOVER)
        for part in parts:
            loads.enter_context(even_load(part, part.fleet, "abcd", WINDOW))
        step("kills the replica that all clients try first")
        first.kill()
        killed = time.monotonic()
        service.renew(backend(scratch, "e"))
        by_name.uses("e", FAILOVER)
        for observer in [*followers, *witnesses[1:]]:
            observer.sees("e", FAILOVER)
        tutorial.goes_on()
        step("starts it again once its session has expired")
        time.sleep(max(0, killed + SESSION_TIME - time.monotonic()))
        first.start()
        by_list.uses("e", FAILOVER)
        witnesses[0].sees("e", FAILOVER)
        step("waits until nothing may be removed any more")
        time.sleep(max(0, killed + ORPHAN_TIME - time.monotonic()))
        tutorial.goes_on()
        tutorial.changes()
        for replica, id in zip(others, "fg"):
            step(f"kills {replica.host}")
            replica.kill()
            service.renew(backend(scratch, id))
            for part in parts:
                part.uses(id, FAILOVER)
            for follower in followers:
                follower.sees(id, FAILOVER)
            replica.start()
            for witness in witnesses:
                witness.sees(id, FAILOVER)
    print(f"{resolver.answers} answers of DNS, the slowest after {resolver.slowest:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
