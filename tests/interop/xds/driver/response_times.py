"""Response times of the Go client with one slow instance of four."""

import statistics
import time
from typing import NamedTuple

from clients import Client
from figures import percentile
from load_reports import LoadReports
from policy import ROLLOUT_TIMEOUT, SETTLE, check_no_failures
from registry import Service
from world import World

IDS = ("v1-z1-a", "v1-z1-b", "v1-z1-c", "v1-z1-d")
DELAYS_MS = (20, 5, 5, 5)
RATE = 400
SECONDS = 5
ADAPTATION = 75  # seconds until weights by response time have reached their limit


class Times(NamedTuple):
    """Times of the calls under a policy, in milliseconds."""

    slow_percent: float
    mean: float
    p99: float


def measure(world: World, times: dict[str, Times]) -> None:
    service = Service(world.memory, "response-times")
    backends = world.backends(IDS)
    service.become(*backends)
    for backend, delay in zip(backends, DELAYS_MS):
        backend.delay(delay)
    with world.other_fleet("xds:///response-times", names=["go"]) as fleet:

        def measure_policy(policy: str) -> None:
            def calls(client: Client) -> None:
                client.start(RATE)
                time.sleep(SECONDS)
                counts = client.stop()
                check_no_failures(counts)
                slow = 100 * counts.backends[IDS[0]] / counts.total
                times[policy] = Times(slow, statistics.mean(counts.times), percentile(counts.times, 99))

            service.unsynced(ROLLOUT_TIMEOUT)
            time.sleep(SETTLE)
            fleet.each(calls)

        measure_policy("`lb = \"round_robin\"`")
        for id in IDS[1:]:
            service.update(id, weight=4)
        measure_policy("`lb = \"round_robin\"`, configured weights 1:4:4:4")
        for id in IDS[1:]:
            service.update(id, weight=1)
        service.set_policy(lb="least_request")
        measure_policy("`lb = \"least_request\"`")
        service.set_policy(weights="response_time")
        fleet.each(lambda client: client.start(RATE // 4))
        with LoadReports(service, backends):
            time.sleep(ADAPTATION)
            fleet.each(lambda client: client.stop() and None)
            measure_policy("`weights = \"response_time\"`")
    for backend in backends:
        backend.delay(0)
    service.become()
