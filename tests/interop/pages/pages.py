"""Runs the commands of pages of the documentation as a reader does, and compares what they print with what the pages show.

A block of code whose first line is a comment with a file name is a file. A `sh` block has commands; a `text` block after it has
what they print, where a line `...` stands for any lines. A `sh install` block is not run: the suite has those packages. The ports
of the pages are replaced by free ones: the system may have given those of the pages to outgoing connections of other programs.
"""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from server import Server

PAGE_TIMEOUT = 600.0  # the first run compiles the crates of the Rust page
SERVING_TIMEOUT = 20  # seconds until an instance that a page starts is SERVING
FENCE = re.compile(r"```(.*)")
FILE = re.compile(r"(?://|#|<!--) ([\w./-]+\.\w+)(?: -->)?")
SERVICE = re.compile(r"\bcallboard run --service (\S+)")
PORT = re.compile(r"\b500[5-9]\d\b")
PORTS = range(20_000, 32_000)  # below the ports that Linux gives to outgoing connections


@dataclass
class Commands:
    """A block of commands, and what they print."""

    text: str
    shown: str | None = None


@dataclass
class Page:
    """The files and the commands of a page."""

    files: dict[str, str] = field(default_factory=dict)
    commands: list[Commands] = field(default_factory=list)


def blocks(text: str) -> list[tuple[str, str]]:
    """Returns the info string and the content of each fenced block."""
    found, info, lines = [], None, []
    for line in text.splitlines():
        fence = FENCE.fullmatch(line)
        if fence and info is None:
            info, lines = fence[1].strip(), []
        elif fence:
            found.append((info, "".join(f"{line}\n" for line in lines)))
            info = None
        elif info is not None:
            lines.append(line)
    return found


def parse(text: str) -> Page:
    page = Page()
    last = None
    for info, content in blocks(text):
        name = FILE.fullmatch(content.split("\n", 1)[0])
        if info == "sh":
            last = Commands(content)
            page.commands.append(last)
            continue
        if info == "text" and last:
            last.shown = content
        elif name:
            page.files[name[1]] = content
        last = None
    return page


def is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Ports:
    """Replaces each port of the pages by a free one."""

    def __init__(self) -> None:
        self._free = filter(is_free, random.sample(PORTS, len(PORTS)))
        self._chosen: dict[str, str] = {}

    def replace(self, text: str) -> str:
        return PORT.sub(lambda port: self._choose(port[0]), text)

    def _choose(self, port: str) -> str:
        if port not in self._chosen:
            self._chosen[port] = str(next(self._free))
        return self._chosen[port]


def script(page: Page, output: Path) -> str:
    """Returns the commands of a page as one program, which writes the output of each block to a file of its own."""
    lines = ["set -euo pipefail"]
    for number, commands in enumerate(page.commands):
        lines.append(f"{{\n{commands.text}}} >{output}/{number}")
        for service in SERVICE.findall(commands.text):
            watch = f"timeout {SERVING_TIMEOUT} callboard health {service} --watch"
            lines.append(f"grep -q -x -m 1 SERVING < <({watch}) || {{ echo '{service} is not SERVING' >&2; exit 1; }}")
    return "\n".join(lines)


def matches(shown: str, printed: str) -> bool:
    pattern = "".join(".*" if line == "...\n" else re.escape(line) for line in shown.splitlines(keepends=True))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


def differences(page: Page, output: Path) -> list[str]:
    found = []
    for number, commands in enumerate(page.commands):
        file = output / str(number)
        printed = file.read_text() if file.exists() else None
        if commands.shown is not None and (printed is None or not matches(commands.shown, printed)):
            found.append(f"{commands.text}prints\n{printed}instead of\n{commands.shown}")
    return found


def run(path: Path, more: list[Path], server: Server, scratch: Path) -> str:
    """Runs a page in `scratch`/work, with its files and those of other pages; returns what is wrong, or nothing."""
    ports = Ports()
    page = parse(ports.replace(path.read_text()))
    if not page.commands:
        return f"{path} has no commands"
    work, output = scratch / "work", scratch / "output"
    output.mkdir()
    for source in [parse(ports.replace(other.read_text())) for other in more] + [page]:
        for name, content in source.files.items():
            (work / name).write_text(content)
    environment = os.environ | {"CALLBOARD_SERVER": server.grpc}
    process = subprocess.Popen(
        ["bash", "-c", script(page, output)],
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        # The programs in the background keep the pipe open, so its end says nothing about the commands.
        code = process.wait(PAGE_TIMEOUT)
    except subprocess.TimeoutExpired:
        code = -1
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        errors = process.stderr.read()
    wrong = differences(page, output)
    if code:
        wrong.append(f"the commands ended with code {code}" if code > 0 else f"not finished after {PAGE_TIMEOUT:.0f} s")
    return "\n".join([*wrong, errors]) if wrong else ""


def main() -> int:
    """Runs a page in a directory: DIRECTORY PAGE [PAGE WITH FILES]…"""
    scratch, path, *more = (Path(name) for name in sys.argv[1:])
    server = Server(os.environ["CALLBOARD"], "--dns", "off")
    try:
        wrong = run(path, more, server, scratch)
    finally:
        server.kill()
    print(f"FAILED  {path.name}\n{wrong}" if wrong else f"ok      {path.name}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
