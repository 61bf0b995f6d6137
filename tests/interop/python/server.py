"""The process under test. It chooses its own ports, unless the caller names them."""

import json
import queue
import subprocess
import tempfile
import threading
import time


class Server:
    def __init__(self, program: str, *more: str, grpc: str = "127.0.0.1:0", http: str = "127.0.0.1:0") -> None:
        self._log = tempfile.TemporaryFile("w+")
        command = [program, "serve", "--grpc", grpc, "--http", http, "-o", "json", *more]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()
        try:
            ready = json.loads(lines.get(timeout=10))
            self.grpc, self.http = ready["grpc"], ready["http"]
            self.grpc_tls: str | None = ready.get("grpc_tls")
        except (queue.Empty, ValueError, KeyError) as error:
            self.kill()
            raise SystemExit(f"the server printed no addresses ({error!r}); its log:\n{self.log()}") from error

    def _read(self, lines: "queue.SimpleQueue[str]") -> None:
        for line in self._process.stdout:
            lines.put(line)
        lines.put("")

    def terminate(self, within: float) -> tuple[int, float]:
        """Sends SIGTERM; returns the exit code, -1 after a timeout, and the time until the exit."""
        began = time.monotonic()
        self._process.terminate()
        try:
            code = self._process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            code = -1
        return code, time.monotonic() - began

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()
