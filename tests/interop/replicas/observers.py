"""Clients that look at one service of the replicas all the time, and fail if they miss something."""

import subprocess
import threading
import time
from pathlib import Path

from fixture import Failure, check, connect
from lines import LineProcess
from watch import Watch

from cluster import NAME, Replica

SERVICE = "payments"
DNS_NAME = f"{SERVICE}.service.consul"
RETRY = 0.1  # seconds
START_TIMEOUT = 30.0


class Observer:
    """A thread with the reason of its failure."""

    def __init__(self, title: str) -> None:
        self.title, self.failure = title, ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(10)

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self._look()
        except Failure as failure:
            self.failure = str(failure)

    def _look(self) -> None:
        raise NotImplementedError


class Witness(Observer):
    """Watches one replica, through its restarts. An instance must never be removed, and no stream may start over."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(f"watch at {replica.host}")
        self._channel = connect(replica.grpc)
        self._watch: Watch | None = None
        self._token = b""
        self._opened = False

    def _look(self) -> None:
        if not self._opened:
            before = self._watch if self._token else None
            self._watch = Watch(self._channel, before, services=[SERVICE], resume_token=self._token)
            self._opened = True
        try:
            arrival = self._watch.next(0.5)
        except Failure as failure:
            if "no message" in str(failure):
                return
            raise
        check(not self._watch.reset, f"{self.title}: the stream started over: {self._watch.reset}")
        for seen in self._watch.changes:
            check(seen.updated is not None, f"{self.title}: {seen.key} was removed: {seen.reason}")
        self._watch.changes.clear()
        self._token = self._watch.token or self._token
        if arrival.message is None:
            self._opened = False
            time.sleep(RETRY)

    def sees(self, id: str, within: float) -> None:
        """Waits until the watch has this instance."""
        deadline = time.monotonic() + within
        while not (self._watch and f"{SERVICE}/{id}" in self._watch.instances):
            check(not self.failure, self.failure)
            check(time.monotonic() < deadline, f"{self.title}: does not know {id} after {within:.0f} s")
            time.sleep(RETRY)


class Resolver(Observer):
    """Resolves the service with the resolver of glibc, which asks one replica after the other."""

    def __init__(self) -> None:
        super().__init__("DNS")
        self.answers, self.slowest = 0, 0.0

    def _look(self) -> None:
        began = time.monotonic()
        answer = subprocess.run(["getent", "ahosts", DNS_NAME], capture_output=True, text=True, timeout=30)
        self.slowest = max(self.slowest, time.monotonic() - began)
        check("127.0.0.1" in answer.stdout, f"{DNS_NAME} was not resolved after {self.answers} answers: {answer}")
        self.answers += 1
        self._ended.wait(RETRY)


class Follower:
    """A program in another language that watches the service by the name of all replicas."""

    def __init__(self, language: str, program: Path, log: Path) -> None:
        self.language = language
        self._process = LineProcess(f"the watch of {language}", [str(program), f"dns:///{NAME}:8502", SERVICE], log)
        self._process.next(START_TIMEOUT)
        self._seen: set[str] = set()

    def sees(self, id: str, within: float) -> None:
        """Reads events up to an update of this instance. No instance may be removed, and no stream may start over."""
        deadline = time.monotonic() + within
        while id not in self._seen:
            event = self._process.next(max(deadline - time.monotonic(), 0.001))
            check(event["event"] not in ("removed", "reset"), f"{self.language}: {event}")
            if event["event"] == "updated":
                self._seen.add(event["id"])

    def end(self) -> None:
        self._process.kill()
