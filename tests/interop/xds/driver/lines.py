"""Child processes that take commands on stdin and print JSON lines on stdout."""

import json
import os
import queue
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

from fixture import Failure


class LineProcess:
    _running: "set[LineProcess]" = set()

    def __init__(self, name: str, command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self._log = log
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **(env or {})},
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()
        self._running.add(self)

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def next(self, within: float) -> Any:
        """Returns the next line."""
        try:
            line = self._lines.get(timeout=within)
        except queue.Empty:
            raise Failure(f"{self.name} printed no line within {within:.0f} s{self._tail()}") from None
        if not line:
            raise Failure(f"{self.name} has ended{self._tail()}")
        try:
            return json.loads(line)
        except ValueError:
            raise Failure(f"{self.name} printed a line that is not JSON: {line!r}") from None

    def send(self, command: str) -> None:
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise Failure(f"{self.name} has ended ({error}){self._tail()}") from error

    def ask(self, command: str, within: float) -> Any:
        """Sends a command and returns the line that answers it."""
        with self._lock:
            self.send(command)
            return self.next(within)

    def end(self, within: float = 10) -> None:
        """Closes stdin, which ends the program, and waits for its end."""
        try:
            self.process.stdin.close()
        except OSError:
            pass  # the process has already ended
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self, within: float) -> int:
        """Sends SIGTERM; returns the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"{self.name} has not ended {within:.0f} s after SIGTERM{self._tail()}") from None

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    @classmethod
    def kill_all(cls) -> None:
        """Kills the processes that still run."""
        for process in cls._running:
            process.kill()

    def _tail(self) -> str:
        text = self._log.read_text(errors="replace").strip()
        return f"; its last lines on stderr:\n{text[-1500:]}" if text else ""
