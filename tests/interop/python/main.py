"""A client that speaks to a real callboard with nothing but generated stubs.

README.md, one directory up, lists its steps. `main.py victim ADDRESS` registers, and heartbeats until it is killed.
"""

import os
import sys
import traceback

import operations
import edges
import story
from server import Server
from world import Failure, World, victim

STEPS = [
    ("registers three instances", story.registers_three),
    ("heartbeats all three on one stream", story.heartbeats_on_one_stream),
    ("watches from a second connection", story.watches_from_second_connection),
    ("sees a change", story.sees_change),
    ("sees a drain and its end", story.sees_drain),
    ("sees a deregistration", story.sees_deregistration),
    ("sees a kill", story.sees_kill),
    ("sees an expiry, in time", story.sees_expiry),
    ("resumes with its token", story.resumes),
    ("is told of a malformed token", edges.malformed_token),
    ("is reset where the token is of another selector", edges.token_of_other_selection),
    ("is told of an unknown lease", edges.unknown_lease),
    ("is refused a live id, then takes it over", edges.takes_over),
    ("watches through a filter", edges.filters),
    ("watches a service before it exists", edges.watches_before_registration),
    ("asks health", operations.health),
    ("watches the health of a service that comes and goes", operations.watches_health),
    ("reads the contract by reflection", operations.reflects),
    ("is told of the shutdown, and the server ends well", operations.shuts_down),
]


def main() -> int:
    server = Server(os.environ["CALLBOARD"])
    failed = 0
    try:
        world = World(server)
        for number, (name, step) in enumerate(STEPS, 1):
            try:
                note = step(world)
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
        print(f"the server said:\n{server.log()}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "victim":
        victim(sys.argv[2])
    sys.exit(main())
