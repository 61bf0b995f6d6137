"""Heartbeats with the load that the backends have measured, as their programs would send them."""

import queue
import threading
from typing import Any

from backends import Backend
from callboard.v1 import registry_pb2, registry_pb2_grpc
from fixture import Stream, check, connect, duration
from registry import Service

INTERVAL = 2.0  # seconds between heartbeats


class LoadReports:
    """Sends heartbeats of the instances of a service with load reports until the end of the `with` block."""

    def __init__(self, service: Service, backends: list[Backend]) -> None:
        self._service, self._backends = service, backends
        self._before = {backend.id: backend.stats() for backend in backends}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> "LoadReports":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()
        check(self._error is None, f"the load reports ended early: {self._error}")

    def _run(self) -> None:
        requests: queue.SimpleQueue = queue.SimpleQueue()
        channel = connect(self._service.registry.address)
        try:
            answers = Stream(registry_pb2_grpc.RegistryServiceStub(channel).KeepAlive(iter(requests.get, None)))
            while not self._stop.wait(INTERVAL):
                beats = [self._heartbeat(backend) for backend in self._backends]
                requests.put(registry_pb2.KeepAliveRequest(heartbeats=beats))
                for report in answers.next().message.leases:
                    check(report.state == registry_pb2.LEASE_STATE_HELD, f"a lease is not held: {report}")
        except Exception as error:
            self._error = error
        finally:
            requests.put(None)
            channel.close()

    def _heartbeat(self, backend: Backend) -> registry_pb2.Heartbeat:
        before, now = self._before[backend.id], backend.stats()
        self._before[backend.id] = now
        load = registry_pb2.LoadReport(requests=now.calls - before.calls, errors=now.failed - before.failed)
        if load.requests:
            load.response_time.CopyFrom(duration((now.busy_ns - before.busy_ns) / load.requests / 1e9))
        return registry_pb2.Heartbeat(lease_id=self._service.leases[backend.id], load=load)
