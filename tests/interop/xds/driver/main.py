"""Runs the scenarios for all clients at once, measures delays, and prints both as tables. The README of the suites describes
the scenarios."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import figures
import outages
import report
import scenarios
import secure
from clients import CLIENT_TYPES
from world import World

SCENARIOS = {
    "first call": scenarios.resolve,
    "even split": scenarios.even_split,
    "weights 3:1": scenarios.weighted_split,
    "backend added": scenarios.add,
    "backend drained": scenarios.drain,
    "backend killed": scenarios.kill_backend,
    "to zero and back": scenarios.scale_to_zero,
    "registered later": scenarios.late_registration,
    "invalid name": scenarios.bad_name,
    "IPv4 and IPv6": scenarios.dual_stack,
    "restart, disk": outages.restart_on_disk,
    "restart, memory": outages.restart_in_memory,
    "outage": outages.outage,
    "TLS": secure.with_tls,
}
REPETITIONS, FULL_REPETITIONS = 10, 50


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/interop/xds/run")
    parser.add_argument("--full", action="store_true", help=f"measure {FULL_REPETITIONS} times instead of {REPETITIONS}")
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="run only this scenario; may be repeated")
    parser.add_argument("--write", action="store_true", help="copy the tables to the book")
    parser.add_argument("--backend", required=True, help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="+", choices=CLIENT_TYPES, metavar="CLIENT")
    options = parser.parse_args()
    names = [name for name in CLIENT_TYPES if name in options.names]
    with tempfile.TemporaryDirectory(prefix="callboard-xds-") as scratch:
        world = World(os.environ["CALLBOARD"], options.backend, Path(scratch), names, options.full)
        try:
            return run(world, options.only, options.write)
        finally:
            world.end()


def run(world: World, only: list[str] | None, write: bool) -> int:
    results = {title: world.run(title, SCENARIOS[title]) for title in only or SCENARIOS}
    delays = {name: figures.Delays() for name in world.names}
    if not only:
        repetitions = FULL_REPETITIONS if world.full else REPETITIONS
        results["delays"] = world.run("delays", lambda world: figures.measure(world, repetitions, delays))
    report.add_versions(world)
    tables = {"scenarios": report.scenarios(world, results), "figures": report.figures(world, delays)}
    print("", *tables.values(), "", sep="\n\n")
    failed = sum(bool(result.failure) for by_client in results.values() for result in by_client.values())
    passed = len(results) * len(world.names) - failed
    if write:
        for name, text in tables.items():
            report.copy(name, text)
    elif not failed and not only and set(world.names) == set(CLIENT_TYPES) and report.copied("scenarios") != tables["scenarios"]:
        failed += 1
        print(f"{report.PAGE} has other results: run tests/interop/xds/run --full --write", file=sys.stderr)
    print(f"{passed} passed, {failed} failed", flush=True)
    if failed:
        print(f"log of the registry:\n{world.memory.log()[-5000:]}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
