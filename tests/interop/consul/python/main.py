"""Tests a real callboard server with Python's two clients for Consul: py-consul and its ancestor python-consul.

Both name their module `consul`, so this program runs once for each, in separate environments."""

import os
import sys
import time
import traceback

from fixture import Failure, Fixture
from server import Server
from steps import STEPS


def main() -> int:
    server = Server(os.environ["CALLBOARD"], "--dns", "127.0.0.1:0")
    failed = 0
    try:
        fixture = Fixture(server)
        for name, step in STEPS:
            began = time.monotonic()
            try:
                step(fixture)
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
        print(f"log of the server:\n{server.log()}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # The thread of a query without an answer never ends. os._exit does not wait for it.
    os._exit(code)
