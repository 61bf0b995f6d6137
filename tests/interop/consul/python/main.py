"""Python's two clients of Consul against a real callboard: py-consul and its ancestor python-consul. Both call their
module `consul`, so each runs this program in an environment of its own."""

import os
import sys
import time
import traceback

from server import Server
from steps import STEPS
from world import Failure, World


def main() -> int:
    server = Server(os.environ["CALLBOARD"], "--dns", "127.0.0.1:0")
    failed = 0
    try:
        world = World(server)
        for name, step in STEPS:
            began = time.monotonic()
            try:
                step(world)
            except Failure as failure:
                failed += 1
                print(f"FAILED  {name}: {failure}", flush=True)
            except Exception:
                failed += 1
                print(f"FAILED  {name}:\n{traceback.format_exc()}", flush=True)
            else:
                print(f"ok      {name} ({1000 * (time.monotonic() - began):.0f} ms)", flush=True)
    finally:
        server.kill()
    print(f"{len(STEPS) - failed} passed, {failed} failed", flush=True)
    if failed:
        print(f"the server said:\n{server.log()}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # A query that is never answered is a thread that never ends: it must not keep this program.
    os._exit(code)
