"""Tests a real callboard server with grpcio and generated stubs.

README.md, one directory up, lists the steps. `main.py victim ADDRESS` is the child process that a step kills.
"""

import os
import sys
import traceback

import edge_cases
import lifecycle
import operations
from fixture import Failure, Fixture, victim
from server import Server

STEPS = [
    ("registers three instances", lifecycle.registers_three),
    ("renews all leases on one stream", lifecycle.heartbeats_on_one_stream),
    ("watches from a second connection", lifecycle.watches_from_second_connection),
    ("sees an update of weight and tags", lifecycle.sees_change),
    ("sees an operator's drain and its end", lifecycle.sees_drain),
    ("sees a deregistration", lifecycle.sees_deregistration),
    ("sees the removal of a killed process", lifecycle.sees_kill),
    ("sees the expiry of a lease in time", lifecycle.sees_expiry),
    ("resumes a watch with its token", lifecycle.resumes),
    ("gets an error for a malformed resume token", edge_cases.malformed_token),
    ("gets a reset for the token of another selector", edge_cases.token_of_other_selector),
    ("gets UNKNOWN for an unknown lease", edge_cases.unknown_lease),
    ("gets an error for an id in use, then replaces its instance", edge_cases.takes_over),
    ("watches with a filter", edge_cases.filters),
    ("watches a service before its first registration", edge_cases.watches_before_registration),
    ("checks health", operations.health),
    ("watches the health of a service until its removal", operations.watches_health),
    ("reads the contract by reflection", operations.reflects),
    ("receives shutdown notices, and the server exits with code 0", operations.shuts_down),
]


def main() -> int:
    server = Server(os.environ["CALLBOARD"])
    failed = 0
    try:
        fixture = Fixture(server)
        for number, (name, step) in enumerate(STEPS, 1):
            try:
                note = step(fixture)
            except Failure as failure:
                failed += 1
                print(f"FAILED {number:2} {name}: {failure}", flush=True)
            except Exception:
                failed += 1
                print(f"FAILED {number:2} {name}:\n{traceback.format_exc()}", flush=True)
            else:
                print(f"ok     {number:2} {name}{f' ({note})' if note else ''}", flush=True)
    finally:
        server.kill()
    print(f"{len(STEPS) - failed} passed, {failed} failed", flush=True)
    if failed:
        print(f"log of the server:\n{server.log()}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "victim":
        victim(sys.argv[2])
    sys.exit(main())
