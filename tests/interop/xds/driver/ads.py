"""A client of xDS that shows the wire: it subscribes as gRPC does, and accepts, rejects or ignores responses as told."""

import queue
import threading
from collections.abc import Callable
from typing import Any

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as manager_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from fixture import check, connect

LDS, CDS, EDS = (
    f"type.googleapis.com/envoy.config.{name}"
    for name in ("listener.v3.Listener", "cluster.v3.Cluster", "endpoint.v3.ClusterLoadAssignment")
)
TIMEOUT = 10.0


def unpack(message_type: Any, any: Any) -> Any:
    message = message_type()
    message.ParseFromString(any.value)
    return message


def routes_of(listener: Any) -> list[Any]:
    manager = unpack(manager_pb2.HttpConnectionManager, listener.api_listener.api_listener)
    return [route for host in manager.route_config.virtual_hosts for route in host.routes]


def clusters_of(route: Any) -> list[str]:
    names = [route.route.cluster] if route.route.cluster else []
    return names + [cluster.name for cluster in route.route.weighted_clusters.clusters]


def selected_by(response: Any) -> list[str]:
    """Returns the clusters of the first route of the listener in a response; none if it has no listener."""
    if response.type_url != LDS:
        return []
    return [name for any in response.resources for name in clusters_of(routes_of(unpack(listener_pb2.Listener, any))[0])]


class AdsClient:
    """Stream of one subscriber to one service.

    `answer` gets each response and returns None to accept it, a text to reject it, or False to leave it without an answer.
    """

    def __init__(
        self,
        address: str,
        service: str,
        node_id: str,
        zone: str = "",
        answer: Callable[[Any], str | bool | None] = lambda response: None,
    ) -> None:
        self.responses: list[Any] = []  # all, in their order
        self.listener: Any = None  # the last ones accepted
        self.assignments: dict[str, Any] = {}
        self._answer = answer
        self._requests: queue.SimpleQueue = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._versions: dict[str, str] = {}
        self._nonces: dict[str, str] = {}
        self._names: dict[str, list[str]] = {}
        self._channel = connect(address)
        locality = base_pb2.Locality(region="r1" if zone else "", zone=zone)
        self._node = base_pb2.Node(
            id=node_id, locality=locality, user_agent_name="gRPC Go", user_agent_version="1.85.0"
        )
        stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(self._channel)
        self._call = stub.StreamAggregatedResources(iter(self._requests.get, None))
        threading.Thread(target=self._read, daemon=True).start()
        self._subscribe(LDS, [service])

    def wait(self, condition: Callable[["AdsClient"], Any], what: str, within: float = TIMEOUT) -> None:
        with self._changed:
            check(self._changed.wait_for(lambda: condition(self), within), f"an xDS client without {what} after {within:.0f} s")

    def number_of(self, type_url: str) -> int:
        """Returns the number of responses of a type."""
        with self._changed:
            return sum(response.type_url == type_url for response in self.responses)

    def quiet(self, seconds: float) -> bool:
        """Returns whether no response arrives for some time."""
        with self._changed:
            before = len(self.responses)
            return not self._changed.wait_for(lambda: len(self.responses) > before, seconds)

    def close(self) -> None:
        self._requests.put(None)
        self._channel.close()

    @property
    def clusters(self) -> list[str]:
        """Clusters that the routes of the listener name."""
        return list(dict.fromkeys(name for route in routes_of(self.listener) for name in clusters_of(route)))

    @property
    def selected(self) -> list[str]:
        """Clusters of the first route of the listener."""
        return clusters_of(routes_of(self.listener)[0])

    def weights(self, cluster: str) -> dict[tuple[int, str], int]:
        """Returns the weights of the localities of an assignment, by priority and zone."""
        found: dict[tuple[int, str], int] = {}
        for group in self.assignments[cluster].endpoints if cluster in self.assignments else []:
            key = (group.priority, group.locality.zone)
            found[key] = found.get(key, 0) + group.load_balancing_weight.value
        return found

    def _read(self) -> None:
        try:
            for response in self._call:
                self._take(response)
        except (grpc.RpcError, ValueError):
            pass  # the registry or the channel is closed

    def _take(self, response: Any) -> None:
        with self._changed:
            self.responses.append(response)
            verdict = self._answer(response)
            if verdict is None:
                self._accept(response)
            self._changed.notify_all()
        if verdict is False:
            return
        self._nonces[response.type_url] = response.nonce
        if verdict is None:
            self._versions[response.type_url] = response.version_info
            self._request(response.type_url)
            if response.type_url == LDS:
                self._subscribe(CDS, self.clusters)
        else:
            self._request(response.type_url, verdict)

    def _accept(self, response: Any) -> None:
        for resource in response.resources:
            if response.type_url == LDS:
                self.listener = unpack(listener_pb2.Listener, resource)
            elif response.type_url == EDS:
                assignment = unpack(endpoint_pb2.ClusterLoadAssignment, resource)
                self.assignments[assignment.cluster_name] = assignment

    def _subscribe(self, type_url: str, names: list[str]) -> None:
        if self._names.get(type_url) == names:
            return
        self._names[type_url] = names
        self._request(type_url)
        if type_url == CDS:
            self._subscribe(EDS, names)

    def _request(self, type_url: str, error: str | None = None) -> None:
        request = discovery_pb2.DiscoveryRequest(
            version_info=self._versions.get(type_url, ""),
            node=self._node,
            resource_names=self._names[type_url],
            type_url=type_url,
            response_nonce=self._nonces.get(type_url, ""),
        )
        if error:
            request.error_detail.code, request.error_detail.message = 3, error
        self._requests.put(request)
