"""Checks the files of deploy/, one check per argument. `run` names them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from pathlib import Path

import kubernetes_validate
import yaml

from deployment import (
    CALLBOARD,
    DEPLOY,
    IMAGE_CALLBOARD,
    ROOT,
    alerts,
    command,
    compose,
    dockerfile,
    etcd_members,
    help_text,
    image_health_check,
    manifests,
    option,
    panels,
    replicas,
    selected_metrics,
    serve_flags,
    server,
    tool,
)

# Versions of Kubernetes: the oldest with all fields that the manifests use, and the newest that the schemas know.
KUBERNETES = ["1.30", "1.34", "1.37"]
# Seconds within which `callboard serve` exits, if the store is slow.
SLOWEST_SHUTDOWN = 15
# The first etcd of a minor version without known losses of data or of access control.
SAFE_ETCD = {(3, 5): 30, (3, 6): 11, (3, 7): 0}


def equal(expected, actual):
    if expected != actual:
        raise SystemExit(f"expected {expected}, found {actual}")


def contains(all_of, some, what):
    missing = sorted(set(some) - set(all_of))
    if missing:
        raise SystemExit(f"{what}: {', '.join(missing)}")


def dockerfile_is_clean():
    tool("hadolint", "--failure-threshold", "style", DEPLOY / "docker/Dockerfile")


def context_has_every_source():
    """The dependency file of the debug build lists what the compiler and build.rs read."""
    context = json.loads(tool("reader", "context", ROOT))
    listed = Path(f"{CALLBOARD}.d")
    if not listed.exists():
        raise SystemExit(f"{listed} is missing: CALLBOARD must be in the directory into which cargo builds")
    read = [Path(path) for path in re.split(r"(?<!\\) ", listed.read_text().split(":", 1)[1].strip())]
    # The binary may have been built of another worktree, whose root is above its src/main.rs.
    main = next(path for path in read if path.parts[-2:] == ("src", "main.rs"))
    built_in, target = main.parents[1], Path(CALLBOARD).resolve().parents[1]
    sources = {path.relative_to(built_in) for path in read if path.is_relative_to(built_in) and not path.is_relative_to(target)}
    # `cargo test` builds the binary without this file, so it may name files that no longer exist.
    sources = {path for path in sources if (ROOT / path).exists()}
    files = [[path] if not (ROOT / path).is_dir() else (found.relative_to(ROOT) for found in (ROOT / path).rglob("*.*"))
             for path in sources]
    sources = {str(path) for group in files for path in group}
    contains(context, sources | {"Cargo.lock"}, "missing in the build context")
    if len(sources) < 100:
        raise SystemExit(f"only {len(sources)} sources were found in {listed}")
    strangers = {path.split("/")[0] for path in context} - {path.split("/")[0] for path in sources}
    equal({"Cargo.toml", "Cargo.lock", "LICENSE", "benches", "examples", "tests"}, strangers)


def targets(directory):
    """Returns the kinds and names of the targets that cargo finds. It leaves out those whose files are missing."""
    metadata = ["cargo", "metadata", "--offline", "--locked", "--no-deps", "--format-version", "1"]
    found = subprocess.run(metadata, cwd=directory, check=True, capture_output=True, text=True).stdout
    return {(*target["kind"], target["name"]) for target in json.loads(found)["packages"][0]["targets"]}


def context_has_every_target():
    """`cargo build` fails if the file of any target in Cargo.toml is missing, also of one that it does not build."""
    with tempfile.TemporaryDirectory() as directory:
        for path in json.loads(tool("reader", "context", ROOT)):
            copy = Path(directory) / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, copy)
        equal(targets(ROOT), targets(directory))


def image_builds_a_profile_that_exists():
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    text = (DEPLOY / "docker/Dockerfile").read_text()
    contains(manifest["profile"], re.findall(r"--profile (\w+)", text), "no such profile in Cargo.toml")
    compiler = re.search(r"^FROM rust:(\d+)\.(\d+)", text, flags=re.MULTILINE).groups()
    oldest = manifest["package"]["rust-version"].split(".")[:2]
    if tuple(map(int, compiler)) < tuple(map(int, oldest)):
        raise SystemExit(f"the image builds with Rust {'.'.join(compiler)}, and Cargo.toml needs {'.'.join(oldest)}")


def image_has_the_libraries_of_the_program():
    equal("gcr.io/distroless/cc-debian12:nonroot", dict(dockerfile())["FROM"])
    linked = subprocess.run(["ldd", CALLBOARD], check=True, capture_output=True, text=True).stdout
    libraries = {line.split()[0].rsplit("/", 1)[-1] for line in linked.splitlines()}
    loader = {name for name in libraries if name.startswith(("linux-vdso.so.", "ld-linux-"))}
    contains({"libc.so.6", "libm.so.6", "libgcc_s.so.1", *loader}, libraries, "the image has no such libraries")


def image_health_check_follows_the_server():
    environment = dict(text.split("=", 1) for name, text in dockerfile() if name == "ENV")
    equal({"CALLBOARD_HEALTH"}, set(environment))
    port = environment["CALLBOARD_HEALTH"].rsplit(":", 1)[1]
    program, *arguments = image_health_check()
    equal(IMAGE_CALLBOARD, program)
    equal(1, sum(argument == f"127.0.0.1:{port}" for argument in arguments))
    with server({"CALLBOARD_HEALTH": "127.0.0.1:0"}) as (process, addresses):
        local = [addresses["health"] if argument == f"127.0.0.1:{port}" else argument for argument in arguments]
        healthy = subprocess.run([CALLBOARD, *local], stdout=subprocess.DEVNULL, check=False)
        equal(0, healthy.returncode)
        process.terminate()
        equal(0, process.wait(timeout=SLOWEST_SHUTDOWN))
        stopped = subprocess.run([CALLBOARD, *local], capture_output=True, check=False)
        equal(4, stopped.returncode)


def image_exposes_the_ports_of_the_listeners():
    exposed = next(text for name, text in dockerfile() if name == "EXPOSE").split()
    defaults = {flag: re.search(rf"{flag} .*?\[default: 127\.0\.0\.1:(\d+)", " ".join(help_text("serve").split()))[1]
                for flag in ["--grpc", "--http", "--dns"]}
    expected = {f"{defaults['--grpc']}/tcp", f"{defaults['--http']}/tcp", "8503/tcp"}
    equal(expected | {f"{defaults['--dns']}/{transport}" for transport in ["tcp", "udp"]}, set(exposed))


def compose_file_is_whole():
    services = compose()
    members, nodes = etcd_members(services), replicas(services)
    equal(3, len(members))
    equal(3, len(nodes))
    for name, service in services.items():
        tagged = re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
        if not tagged and "build" not in service:
            raise SystemExit(f"{name}: the image {service['image']} names no version")
        for port in service.get("ports", []):
            equal("127.0.0.1", port.get("host_ip"))
        for volume in service.get("volumes", []):
            if volume["type"] == "bind" and not Path(volume["source"]).exists():
                raise SystemExit(f"{name}: {volume['source']} does not exist")
    for name, service in members.items():
        major, minor, patch = map(int, re.search(r":v(\d+)\.(\d+)\.(\d+)$", service["image"]).groups())
        if patch < SAFE_ETCD.get((major, minor), 1 << 30):
            raise SystemExit(f"{name}: etcd {major}.{minor}.{patch} has known losses of data or of access control")
        equal(name, option(command(service), "name"))
    endpoints = ",".join(option(command(service), "advertise-client-urls") for service in members.values())
    for name, service in nodes.items():
        equal(name, option(command(service), "replica"))
        equal(endpoints, option(command(service), "etcd"))
        grace = re.fullmatch(r"(\d+)s", service["stop_grace_period"])
        if int(grace[1]) <= SLOWEST_SHUTDOWN:
            raise SystemExit(f"{name}: a shutdown may take {SLOWEST_SHUTDOWN} s, and the grace period is {grace[0]}")


def prometheus_files_are_valid():
    directory = DEPLOY / "prometheus"
    tool("promtool", "check", "config", "--lint=all", "--lint-fatal", directory / "prometheus.yaml")
    tool("promtool", "check", "rules", "--lint=all", "--lint-fatal", directory / "alerts.yaml")
    services = compose()
    jobs = yaml.safe_load((directory / "prometheus.yaml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs}
    equal([f"{name}:8500" for name in replicas(services)], targets["callboard"])
    equal([f"{name}:2379" for name in etcd_members(services)], targets["etcd"])


def alerts_fire_as_tested():
    tests = DEPLOY / "prometheus/alerts.test.yaml"
    tool("promtool", "test", "rules", tests)
    fired = set(re.findall(r'ALERTS{alertname="(\w+)"', tests.read_text()))
    contains(fired, (rule["alert"] for rule in alerts()), "alerts without a test in which they fire")


def dashboard_is_provisioned():
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    equal(["http://prometheus:9090"], [source["url"] for source in sources])
    identifiers = [panel["id"] for panel in panels()]
    equal(len(identifiers), len(set(identifiers)))
    cells = [(panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y) for panel in panels()
             for x in range(panel["gridPos"]["w"]) for y in range(panel["gridPos"]["h"])]
    equal(len(cells), len(set(cells)))
    equal(23, max(x for x, _ in cells))
    equal({"${datasource}"}, {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]})
    mounted = {volume["target"]: Path(volume["source"]) for volume in compose()["grafana"]["volumes"] if volume["type"] == "bind"}
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/callboard.yaml").read_text())["providers"][0]
    equal(DEPLOY / "grafana/callboard.json", mounted[f"{provider['options']['path']}/callboard.json"])
    equal(DEPLOY / "grafana/provisioning", mounted["/etc/grafana/provisioning"])


def offered_metrics():
    """Returns the samples that the reference page or /metrics of a running server has, with their labels."""
    page = (ROOT / "docs/src/reference/metrics.md").read_text()
    offered = {}
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", page, flags=re.MULTILINE):
        names = re.findall(r"`(\w+)`(?=:|$)", re.sub(r"(: `[^`]+`(, `[^`]+`)*)", ":", labels))
        for suffix in ["_bucket", "_sum", "_count"] if kind == "histogram" else [""]:
            offered[name + suffix] = {*names, *(["le"] if suffix == "_bucket" else [])}
    with server() as (_, addresses), urllib.request.urlopen(f"http://{addresses['http']}/metrics", timeout=5) as response:
        for line in response.read().decode().splitlines():
            if sample := re.match(r"(\w+)(?:\{(.*?)\})? ", line):
                offered.setdefault(sample[1], set()).update(re.findall(r"(\w+)=", sample[2] or ""))
    return offered


def metrics_exist():
    offered = offered_metrics()
    # Prometheus itself adds `up` and these labels.
    added = {"job", "instance"}
    selected = {name: labels for name, labels in selected_metrics().items() if not name.startswith("etcd_") and name != "up"}
    contains(set(offered), selected, "no such metrics")
    if len(selected) < 30:
        raise SystemExit(f"only {len(selected)} metrics were found in the dashboard and the alerts")
    for name, labels in selected.items():
        contains(offered[name] | added, labels, f"no such labels of {name}")


def flags_exist():
    """The command lines and variables of all files are known to `callboard serve`."""
    lines = [command(service) for service in replicas(compose()).values()]
    containers = [container for resource in manifests("external-etcd") if resource["kind"] == "Deployment"
                  for container in resource["spec"]["template"]["spec"]["containers"]]
    lines += [container["args"] for container in containers]
    used = {argument.split("=")[0] for line in lines for argument in line if argument.startswith("--")}
    settings = {key for resource in manifests("external-etcd") if resource["kind"] == "ConfigMap" for key in resource["data"]}
    known = serve_flags() | {"CALLBOARD_" + flag[2:].replace("-", "_").upper() for flag in serve_flags()}
    contains(known, used | settings, "no such flags or variables of `callboard serve`")


def manifests_match_their_schemas():
    for directory in ["base", "external-etcd"]:
        for resource in manifests(directory):
            for version in KUBERNETES:
                try:
                    kubernetes_validate.validate(resource, version, strict=True)
                except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                    name = f"{directory}: {resource['kind']}/{resource['metadata']['name']}"
                    raise SystemExit(f"{name} against Kubernetes {version}: {error.message}") from error


def manifests_follow_good_practice():
    ignored = [
        "container-image-pull-policy",  # a tag that names a version does not change
        "deployment-has-host-podantiaffinity",  # topologySpreadConstraints do it
        "pod-networkpolicy",  # health checks connect to any instance, so egress is open
    ]
    flags = [f"--ignore-test={name}" for name in ignored]
    # A limit on CPU would delay heartbeats.
    tool("kube-score", "score", "--exit-one-on-warning", "--ignore-container-cpu-limit", *flags, "-",
         stdin=tool("kustomize", "build", DEPLOY / "kubernetes/external-etcd"))


def manifests_agree():
    resources = {}
    for resource in manifests("external-etcd"):
        resources.setdefault(resource["kind"], {})[resource["metadata"]["name"]] = resource
    deployment = resources["Deployment"]["callboard"]["spec"]
    pod = deployment["template"]["spec"]
    container = pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for flag, names in {"grpc": ["grpc"], "http": ["http"], "health": ["health"], "dns": ["dns-udp", "dns-tcp"]}.items():
        for name in names:
            equal(int(option(container["args"], flag).rsplit(":", 1)[1]), ports[name])
    equal(ports["health"], container["startupProbe"]["grpc"]["port"])
    equal(ports["health"], container["readinessProbe"]["grpc"]["port"])
    for service in resources["Service"].values():
        contains(ports, (port["targetPort"] for port in service["spec"]["ports"]), "no such port")
    rules = resources["NetworkPolicy"]["callboard"]["spec"]["ingress"]
    contains(ports, (port["port"] for rule in rules for port in rule["ports"]), "no such port")
    budget = resources["PodDisruptionBudget"]["callboard"]["spec"]["minAvailable"]
    equal(deployment["replicas"] - 1, budget)
    shutdown = container["lifecycle"]["preStop"]["sleep"]["seconds"] + SLOWEST_SHUTDOWN
    if pod["terminationGracePeriodSeconds"] <= shutdown:
        raise SystemExit(f"a pod may take {shutdown} s to stop: raise terminationGracePeriodSeconds")
    secret = resources["Secret"]["callboard-etcd"]
    mount = container["volumeMounts"][0]["mountPath"]
    files = {argument.split("=", 1)[1] for argument in container["args"] if argument.startswith("--etcd-")}
    equal({f"{mount}/{key}" for key in secret["stringData"]}, files)
    equal(secret["metadata"]["name"], pod["volumes"][0]["secret"]["secretName"])
    contains(resources["ConfigMap"], (source["configMapRef"]["name"] for source in container["envFrom"]), "no such ConfigMap")


if __name__ == "__main__":
    os.environ.pop("CALLBOARD_SERVER", None)
    globals()[sys.argv[1]]()
