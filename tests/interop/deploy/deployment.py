"""Reads the files of deploy/, and what the binary under test offers."""

import contextlib
import json
import os
import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
CALLBOARD = os.environ["CALLBOARD"]
# Programs that `run` builds, by name.
TOOLS = Path(os.environ["DEPLOY_TOOLS"])
# Path of the program in the image.
IMAGE_CALLBOARD = "/usr/bin/callboard"


def tool(*arguments, stdin=None):
    """Runs a tool and returns its stdout. Ends the program with the tool's message if it fails."""
    run = subprocess.run([TOOLS / arguments[0], *arguments[1:]], input=stdin, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}: exit code {run.returncode}\n{run.stdout}{run.stderr}")
    return run.stdout


def compose():
    """Returns the services of compose.yaml, as docker compose resolves them."""
    return json.loads(tool("reader", "compose", DEPLOY / "compose/compose.yaml"))["services"]


def command(service):
    """Returns the command line of a service."""
    return [*(service.get("entrypoint") or []), *(service.get("command") or [])]


def option(arguments, name):
    """Returns the value of `--name=value`."""
    values = [argument.split("=", 1)[1] for argument in arguments if argument.startswith(f"--{name}=")]
    if len(values) != 1:
        raise SystemExit(f"expected one --{name}=… in {arguments}")
    return values[0]


def etcd_members(services):
    return {name: service for name, service in services.items() if command(service)[:1] == ["/usr/local/bin/etcd"]}


def replicas(services):
    return {name: service for name, service in services.items() if command(service)[:1] == [IMAGE_CALLBOARD]}


def dockerfile():
    """Returns the instructions of the last stage of the Dockerfile, each as its name and its text."""
    text = (DEPLOY / "docker/Dockerfile").read_text()
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    instructions = [tuple(line.split(None, 1)) for line in lines if line.strip()]
    last = max(at for at, (name, _) in enumerate(instructions) if name == "FROM")
    return instructions[last:]


def image_health_check():
    """Returns the command of the image's HEALTHCHECK."""
    return json.loads(next(text for name, text in dockerfile() if name == "HEALTHCHECK").split("CMD", 1)[1])


def manifests(directory):
    """Returns the resources that kustomize builds of a directory of deploy/kubernetes."""
    return list(yaml.safe_load_all(tool("kustomize", "build", DEPLOY / "kubernetes" / directory)))


def alerts():
    """Returns the alerting rules of Prometheus."""
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels():
    """Returns the panels of the dashboard that show something."""
    dashboard = json.loads((DEPLOY / "grafana/callboard.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions():
    """Returns the queries of the dashboard, its variables and the alerts, without variables of Grafana."""
    dashboard = json.loads((DEPLOY / "grafana/callboard.json").read_text())
    variables = [variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    labels = [re.fullmatch(r"label_values\((.*), *\w+\)", query)[1] for query in variables]
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [re.sub(r"\$\w+", "5m", query) for query in labels + queries] + [rule["expr"] for rule in alerts()]


def selected_metrics():
    """Returns the metrics that the dashboard and the alerts select, each with the labels by which they do."""
    found = {}
    for selectors in json.loads(tool("reader", "promql", stdin=json.dumps(expressions()))):
        for selector in selectors:
            found.setdefault(selector["metric"], set()).update(selector["labels"])
    return found


def help_text(*verb):
    return subprocess.run([CALLBOARD, *verb, "--help"], capture_output=True, text=True, check=True).stdout


def serve_flags():
    return set(re.findall(r"^ +(?:-\w, )?(--[a-z][a-z-]*)", help_text("serve"), flags=re.MULTILINE))


@contextlib.contextmanager
def server(environment=None):
    """Runs a registry in memory on free ports, and yields the process and its addresses."""
    flags = ["--grpc=127.0.0.1:0", "--http=127.0.0.1:0", "--dns=off", "--output=json", "--log=warn"]
    process = subprocess.Popen(
        [CALLBOARD, "serve", *flags], stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
