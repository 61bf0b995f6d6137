"""The two programs of Consul's tutorial, by the name of all replicas or by the address of one."""

import os
import subprocess
import threading
import time
from pathlib import Path

from fixture import check

NAME = "greeter"
TIMEOUT = 40.0  # seconds until another replica runs the checks of the one that was killed, and a check fails
POLL = 0.05


class Program:
    """A program that prints lines."""

    def __init__(self, program: Path, address: str, log: Path) -> None:
        settings = {"CONSUL_HTTP_ADDR": address, "NAME": NAME, "PORT": "0", "ADDRESS": "127.0.0.1"}
        settings |= {"INTERVAL": "1s", "PAUSE": "100ms"}
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                [str(program)], stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **settings}
            )
        self._name = f"{program.name} at {address}"
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        self.lines.extend(line.rstrip() for line in self._process.stdout)

    def prints(self, start: str, within: float = TIMEOUT) -> str:
        """Waits for a line that begins so, after those that are known; returns it."""
        known = len(self.lines)
        deadline = time.monotonic() + within
        while True:
            if found := [line for line in self.lines[known:] if line.startswith(start)]:
                return found[0]
            check(self._process.poll() is None, f"{self._name} has ended: {self.lines[-5:]}")
            check(time.monotonic() < deadline, f"{self._name} printed no {start!r} within {within:.0f} s: {self.lines[-5:]}")
            time.sleep(POLL)

    def printed_only(self, *starts: str) -> None:
        """Checks that all lines begin with one of these texts."""
        other = [line for line in self.lines if not line.startswith(starts)]
        check(not other, f"{self._name} printed {other[:5]}")

    def terminate(self) -> None:
        self._process.terminate()
        check(self._process.wait(10) == 0, f"{self._name} exited with code {self._process.returncode}: see its log")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Tutorial:
    """Two instances, and a program that finds and calls them."""

    def __init__(self, programs: Path, name: str, other: str, log: Path) -> None:
        self._start = lambda program, address: Program(programs / program, address, log)
        self._other = other
        self._instances = [self._start("register", name) for _ in range(2)]
        self._finder = self._start("discover", name)
        self._finder.prints("found: 2")
        self._finder.lines.clear()

    def goes_on(self) -> None:
        """Checks that no call has failed and no instance was missing, also at another replica by its address."""
        self._finder.prints("found: 2")
        # A question that was under way when its replica was killed fails; the next one goes to another replica.
        lost = [line for line in self._finder.lines if line.startswith("error: ") and "/v1/health/service/" in line]
        check(len(lost) <= 1, f"questions failed: {lost}")
        self._finder.printed_only("found: 2", "called: ", *lost)
        self._finder.lines.clear()
        other = self._start("discover", self._other)
        other.prints("called: ")
        other.printed_only("found: 2", "called: ")
        other.kill()

    def changes(self) -> None:
        """Checks that one instance deregisters at another replica, and that another replica has the check of the other one."""
        self._instances[0].terminate()
        self._finder.prints("found: 1")
        self._instances[1].kill()
        self._finder.prints("found: 0")

    def end(self) -> None:
        for program in [*self._instances, self._finder]:
            program.kill()
