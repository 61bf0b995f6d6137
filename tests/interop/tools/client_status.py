"""Asks a registry for the state of its xDS clients with the complete files of CSDS, as grpcdebug does.

Connects gRPC's own xDS client to xds:///web with the bootstrap in GRPC_XDS_BOOTSTRAP, waits until it has accepted all its
resources, and prints the response as JSON with all messages in it.
"""

import sys
import time

import grpc
from envoy.config.cluster.v3 import cluster_pb2  # noqa: F401
from envoy.config.endpoint.v3 import endpoint_pb2  # noqa: F401
from envoy.config.listener.v3 import listener_pb2  # noqa: F401
from envoy.config.route.v3 import route_pb2  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import (  # noqa: F401
    http_connection_manager_pb2,
)
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2  # noqa: F401
from envoy.admin.v3 import config_dump_shared_pb2
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from google.protobuf import json_format

ACCEPTED = config_dump_shared_pb2.ClientResourceStatus.ACKED
# A gRPC client asks for a listener, a cluster and its endpoints.
RESOURCES = 3
TIMEOUT = 10

address = sys.argv[1]
client = grpc.insecure_channel("xds:///web")
client.subscribe(lambda _: None, try_to_connect=True)
status = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(grpc.insecure_channel(address))
request = csds_pb2.ClientStatusRequest()
deadline = time.monotonic() + TIMEOUT
while True:
    # grpcdebug uses the single call, other clients the stream.
    streamed = next(status.StreamClientStatus(iter([request]), timeout=TIMEOUT))
    fetched = status.FetchClientStatus(request, timeout=TIMEOUT)
    statuses = [config.client_status for of in fetched.config for config in of.generic_xds_configs]
    if streamed == fetched and statuses.count(ACCEPTED) == RESOURCES:
        break
    if time.monotonic() > deadline:
        sys.exit(f"the client has not accepted its {RESOURCES} resources within {TIMEOUT} s: {fetched}")
    time.sleep(0.02)
print(json_format.MessageToJson(fetched))
