"""Runs the scenarios for all clients at once, measures delays, and prints both as tables. The README of the suites describes
the scenarios."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import availability
import balancing
import drills
import figures
import outages
import report
import response_times
import routing
import scenarios
import secure
from clients import CLIENT_TYPES
from lines import LineProcess
from world import Result, World

REGISTRATIONS = {
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
ROUTING = {
    "split": routing.split,
    "shift under load": routing.shift,
    "policy removed": routing.policy_removed,
    "routes": routing.routes,
    "open streams": routing.open_streams,
    "timeout": routing.timeouts,
    "retries": routing.retries,
    "shed": routing.shed,
    "subset drained": availability.empty_subset_spills,
    "subset killed": availability.killed_subset_spills,
    "subset empty": availability.empty_subset_fails,
    "filter of nothing": drills.filter_without_matches,
    "fallback removed": drills.fallback_removed,
    "killed in a shift": drills.server_killed_in_shift,
    "restart and policy": drills.restart_in_memory,
    "rejected policy": drills.rejected_policy,
    "stalled client": drills.stalled_client,
    "100 policies in 1 s": drills.flipped_policy,
}
BALANCING = {
    "balancers": balancing.balancers,
    "ring hash": balancing.ring_hash,
    "weights 3:2:1": balancing.weights,
    "outlier": balancing.outlier,
    "slow start": balancing.slow_start,
    "response time": balancing.response_time,
    "zones": availability.zones,
    "load reports": balancing.reported_loads,
}
OLDER_NAMES = ("go-1.44", "node-1.14.0")
# The older clients run only these: they take what the registry sends to their versions.
OLDER = {
    "even split": scenarios.even_split,
    "split": routing.split,
    "shift under load": routing.shift,
    "policy removed": routing.policy_removed,
    "routes": routing.routes,
    "subset drained": availability.empty_subset_spills,
    "100 policies in 1 s": drills.flipped_policy,
}
# Each part runs beside the others, with processes of its own. Its scenarios run one after the other.
PARTS = {"registrations": REGISTRATIONS, "routing": ROUTING, "balancing": BALANCING, "older": OLDER}
REPETITIONS, FULL_REPETITIONS = 10, 50


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/interop/xds/run")
    parser.add_argument("--full", action="store_true", help="more calls and repetitions, and the table of response times")
    parser.add_argument("--only", action="append", metavar="SCENARIO", help="run only this scenario; may be repeated")
    parser.add_argument("--write", action="store_true", help="copy the tables to the book")
    parser.add_argument("--backend", required=True, help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="+", choices=CLIENT_TYPES, metavar="CLIENT")
    options = parser.parse_args()
    titles = [title for part in PARTS.values() for title in part]
    for title in options.only or []:
        if title not in titles:
            parser.error(f"no scenario {title!r}: the scenarios are {', '.join(titles)}")
    with tempfile.TemporaryDirectory(prefix="callboard-xds-") as scratch, ThreadPoolExecutor(len(PARTS)) as pool:
        try:
            return run(options, Path(scratch), pool)
        finally:
            LineProcess.kill_all()


def run(options: argparse.Namespace, scratch: Path, pool: Executor) -> int:
    names = [name for name in CLIENT_TYPES if name in options.names]
    wanted = {
        part: {title: scenario for title, scenario in all.items() if not options.only or title in options.only}
        for part, all in PARTS.items()
    }
    names_by_part = {part: [name for name in names if (name in OLDER_NAMES) == (part == "older")] for part in PARTS}
    worlds = {
        part: new_world(options, names_by_part[part], scratch / part)
        for part in PARTS
        if wanted[part] and names_by_part[part]
    }
    running = {part: pool.submit(run_part, world, wanted[part]) for part, world in worlds.items()}
    results = {part: running[part].result() if part in running else {} for part in PARTS}
    delays = {name: figures.Delays() for name in names}
    times: dict[str, response_times.Times] = {}
    if "registrations" in worlds and not options.only:
        # Without other load on the machine.
        repetitions = FULL_REPETITIONS if options.full else REPETITIONS
        world = worlds["registrations"]
        results["registrations"]["delays"] = world.run("delays", lambda world: figures.measure(world, repetitions, delays))
        if options.full and "go" in names:
            worlds["balancing"].run("response times", lambda world: response_times.measure(world, times))
    report.add_versions({name: version for world in worlds.values() for name, version in world.versions.items()})
    failures = report.failures(results)
    by_table = {
        "scenarios": results["registrations"],
        "policies": {**results["routing"], **results["balancing"]},
        "older": results["older"],
    }
    compared = {table: report.results(by_title) for table, by_title in by_table.items()}
    tables = {**compared, "figures": report.figures(worlds, delays), "times": report.response_times(times)}
    print("", *tables.values(), "", sep="\n\n")
    cells = sum(len(by_client) for by_title in by_table.values() for by_client in by_title.values())
    passed = cells - len(failures)
    if options.write:
        for name, text in tables.items():
            if report.has_rows(text):
                report.copy(name, text)
    elif not failures and not options.only and set(names) == set(CLIENT_TYPES):
        failures += [
            f"{report.PAGE} has other {name}: run tests/interop/xds/run --full --write"
            for name, text in compared.items()
            if report.copied(name) != text
        ]
    for part, world in worlds.items():
        if any(result.failure for by_client in results[part].values() for result in by_client.values()):
            print(f"log of the registry of {part}:\n{world.memory.log()[-5000:]}", file=sys.stderr)
        world.end()
    print("\n".join([*failures, f"{passed} passed, {len(failures)} failed"]), flush=True)
    report.add_failures(failures)
    return 1 if failures else 0


def new_world(options: argparse.Namespace, names: list[str], scratch: Path) -> World:
    scratch.mkdir()
    return World(os.environ["CALLBOARD"], options.backend, scratch, names, options.full)


def run_part(world: World, scenarios: dict[str, Callable[[World], None]]) -> dict[str, dict[str, Result]]:
    return {title: world.run(title, scenario) for title, scenario in scenarios.items()}


if __name__ == "__main__":
    sys.exit(main())
