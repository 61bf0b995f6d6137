"""What a Python program does with Consul, in terms that py-consul and python-consul share."""

import time

import consul
from world import LONG, PATIENCE, Target, World, check, eventually, refused, same


def reads_agent(w: World) -> None:
    me = w.client.agent.self()
    node, datacenter = me["Config"]["NodeName"], me["Config"]["Datacenter"]
    check(":" in w.client.status.leader(), "the leader is no address")
    check(w.client.status.peers(), "no peers")
    same(w.client.catalog.datacenters(), [datacenter], "datacenters")
    _, nodes = w.client.catalog.nodes()
    same([n["Node"] for n in nodes], [node], "nodes")


def registers(w: World) -> None:
    service = w.client.agent.service
    check(service.register("web", service_id="web-1", address="127.0.0.1", port=8001, tags=["a", "b"]), "refused")
    check(service.register("web", service_id="web-2", address="127.0.0.1", port=8002, tags=["b"]), "refused")
    check(service.register("plain"), "refused")
    services = w.client.agent.services()
    same(services["web-1"]["Port"], 8001, "its port")
    same(services["web-1"]["Tags"], ["a", "b"], "its tags")
    same(services["plain"]["ID"], "plain", "the id that is the name")
    same(w.passing("web"), ["web-1", "web-2"], "passing")
    same(w.ids("web", tag="a"), ["web-1"], "tagged a")
    _, names = w.client.catalog.services()
    same(sorted(names["web"]), ["a", "b"], "its tags in the catalog")
    _, instances = w.client.catalog.service("web", tag="a")
    same([(i["ServiceID"], i["ServiceAddress"], i["ServicePort"]) for i in instances], [("web-1", "127.0.0.1", 8001)], "instances")
    _, node = w.client.catalog.node(instances[0]["Node"])
    check("web-1" in node["Services"], f"not on its node: {node}")


def deregisters(w: World) -> None:
    check(w.client.agent.service.deregister("web-1"), "refused")
    same(w.ids("web"), ["web-2"], "instances")
    check(w.client.agent.service.deregister("web-2"), "refused")
    check(w.client.agent.service.deregister("plain"), "refused")
    same(w.ids("web"), [], "instances")
    _, names = w.client.catalog.services()
    check("web" not in names, f"still in the catalog: {names}")
    same(w.client.agent.service.deregister("web-1"), False, "deregistering what is gone")


def checks_http(w: World) -> None:
    good, bad = Target(), Target()
    for id, target in (("http-1", good), ("http-2", bad)):
        http = consul.Check.http(target.url, "1s", timeout="1s", deregister="1m", header={"x-probe": ["yes"]})
        w.client.agent.service.register("http", service_id=id, address="127.0.0.1", port=target.port, check=http)

    def status() -> str:
        return {c["CheckID"]: c["Status"] for c in w.client.health.checks("http")[1]}["service:http-2"]

    eventually("passing", lambda: w.passing("http"), ["http-1", "http-2"])
    bad.status = 500
    eventually("passing, one at 500", lambda: w.passing("http"), ["http-1"])
    same(status(), "critical", "the check at 500")
    output = w.client.agent.checks()["service:http-2"]["Output"]
    check(f"HTTP GET {bad.url}: 500" in output, f"output {output!r}")
    bad.status = 429
    eventually("the check at 429", status, "warning")
    same(w.passing("http"), ["http-1"], "passing, one warning")
    bad.status = 200
    eventually("passing, recovered", lambda: w.passing("http"), ["http-1", "http-2"])
    for id in ("http-1", "http-2"):
        w.client.agent.service.deregister(id)


def checks_tcp(w: World) -> None:
    target = Target()
    w.client.agent.service.register("tcp", check=consul.Check.tcp("127.0.0.1", target.port, "1s", timeout="1s"))
    eventually("passing", lambda: w.passing("tcp"), ["tcp"])
    w.client.agent.service.deregister("tcp")


def keeps_maintenance(w: World) -> None:
    w.client.agent.service.register("maint", service_id="maint-1")
    check(w.client.agent.service.maintenance("maint-1", True, "new disks"), "refused")
    same(w.passing("maint"), [], "passing in maintenance")
    same(w.client.agent.checks()["_service_maintenance:maint-1"]["Notes"], "new disks", "the reason")
    check(w.client.agent.service.maintenance("maint-1", False), "refused")
    same(w.passing("maint"), ["maint-1"], "passing after maintenance")
    check(w.client.agent.maintenance(True, "moving house"), "refused")
    same(w.passing("maint"), [], "passing, the node in maintenance")
    check(w.client.agent.maintenance(False), "refused")
    same(w.passing("maint"), ["maint-1"], "passing, that over")
    w.client.agent.service.deregister("maint-1")


def feeds_ttl(w: World) -> None:
    w.client.agent.service.register("ttl", service_id="ttl-1", check=consul.Check.ttl("60s"))
    checks = w.client.agent.check
    for report, state in ((checks.ttl_pass, "passing"), (checks.ttl_warn, "warning"), (checks.ttl_fail, "critical")):
        check(report("service:ttl-1", f"note of {state}"), "refused")
        for listed in ("passing", "warning", "critical", "any"):
            found = any(c["CheckID"] == "service:ttl-1" for c in w.client.health.state(listed)[1])
            same(found, listed in (state, "any"), f"whether {state} is listed as {listed}")
        same(w.client.agent.checks()["service:ttl-1"]["Output"], f"note of {state}", "the output")
        same(w.passing("ttl"), ["ttl-1"] if state == "passing" else [], f"passing, when {state}")
    w.client.agent.service.deregister("ttl-1")


def lets_ttl_expire(w: World) -> None:
    w.client.agent.service.register("brief", service_id="brief-1", check=consul.Check.ttl("1s"))
    reported = time.monotonic()
    w.client.agent.check.ttl_pass("service:brief-1", "last words")
    same(w.passing("brief"), ["brief-1"], "passing")
    eventually("passing, once expired", lambda: w.passing("brief"), [])
    took = time.monotonic() - reported
    check(0.95 < took < 2, f"expired after {took:.2f} s, not after its second")
    output = w.client.agent.checks()["service:brief-1"]["Output"]
    check(output.startswith("TTL expired") and "last words" in output, f"output {output!r}")
    w.client.agent.service.deregister("brief-1")


def registers_checks(w: World) -> None:
    w.client.agent.service.register("guarded", service_id="guarded-1")
    check(w.client.agent.check.register("guard", consul.Check.ttl("60s"), service_id="guarded-1", notes="by hand"), "refused")
    same(w.passing("guarded"), [], "passing, before the check did")
    w.client.agent.check.ttl_pass("guard")
    same(w.passing("guarded"), ["guarded-1"], "passing")
    node = w.client.agent.self()["Config"]["NodeName"]
    check("guard" in [c["CheckID"] for c in w.client.health.node(node)[1]], "not among the node's checks")
    w.client.agent.check.ttl_fail("guard")
    check(w.client.agent.check.deregister("guard"), "refused")
    same(w.passing("guarded"), ["guarded-1"], "passing, the check removed")
    w.client.agent.service.deregister("guarded-1")


def keeps_catalog(w: World) -> None:
    check(
        w.client.catalog.register(
            "outside",
            "10.9.8.7",
            service={"service": "db", "id": "db-1", "port": 5432, "tags": ["primary"]},
            check={"name": "db", "checkid": "db-check", "status": "passing", "serviceid": "db-1"},
        ),
        "refused",
    )
    same(w.passing("db"), ["db-1"], "passing")
    _, node = w.client.catalog.node("outside")
    same(list(node["Services"]), ["db-1"], "its services")
    check(w.client.catalog.deregister("outside", service_id="db-1"), "refused")
    same(w.ids("db"), [], "instances, the service deregistered")
    check(w.client.catalog.deregister("outside"), "refused")
    same(w.client.catalog.node("outside")[1], None, "the node, deregistered")


def blocks(w: World) -> None:
    w.client.agent.service.register("busy", service_id="busy-1")
    ids, index, _ = w.query("busy", None, LONG)
    again, at, took = w.query("busy", index, "1s")
    check(1 <= took < 1.2, f"waited {took:.2f} s instead of 1 s")
    same((again, int(at) <= int(index)), (ids, True), "unchanged data and index")

    def woken(act, *wanted: str) -> None:
        nonlocal index
        answer = w.during("busy", index, LONG)
        act()
        ids, at, took = answer.result(PATIENCE)
        same(ids, list(wanted), "passing when woken")
        check(int(at) > int(index), f"woken with index {at} after {index}")
        index = at

    agent = w.client.agent
    woken(lambda: agent.service.register("busy", service_id="busy-2", check=consul.Check.ttl("60s")), "busy-1")
    woken(lambda: agent.check.ttl_pass("service:busy-2"), "busy-1", "busy-2")
    woken(lambda: agent.service.maintenance("busy-1", True), "busy-2")
    woken(lambda: agent.service.deregister("busy-1"), "busy-2")
    woken(lambda: agent.service.deregister("busy-2"))


def sleeps_on(w: World) -> None:
    w.client.agent.service.register("calm", service_id="calm-1")
    _, index, _ = w.query("calm", None, LONG)
    answer = w.during("calm", index, "2s")
    w.client.agent.service.register("loud", service_id="loud-1", check=consul.Check.ttl("60s"))
    w.client.agent.check.ttl_pass("service:loud-1")
    w.client.agent.service.deregister("loud-1")
    ids, at, took = answer.result(PATIENCE)
    check(2 <= took < 2.3 and int(at) <= int(index), f"woken after {took:.2f} s, index {at} after {index}")
    same(ids, ["calm-1"], "passing after the wait")
    w.client.agent.service.deregister("calm-1")


def is_refused(w: World) -> None:
    refused(consul.ConsulException, "400 Missing service name", lambda: w.client.agent.service.register(""))
    refused(consul.ConsulException, "No path to datacenter", lambda: w.client.health.service("web", dc="elsewhere"))
    refused(consul.ConsulException, "501", lambda: w.client.kv.get("anything"))


def asks_consistently(w: World) -> None:
    host, port = w.server.http.rsplit(":", 1)
    for consistency in ("stale", "consistent"):
        client = consul.Consul(host=host, port=int(port), consistency=consistency, token="nobody-asks-for-it")
        client.agent.service.register("modes")
        same(len(client.health.service("modes", passing=True)[1]), 1, f"passing, {consistency}")
        client.agent.service.deregister("modes")


def shuts_down(w: World) -> None:
    w.client.agent.service.register("last")
    _, index, _ = w.query("last", None, LONG)
    w.during("last", index, "30s")
    code, took = w.server.terminate(6)
    same(code, 0, f"the exit code after {took:.1f} s")


STEPS = [
    ("reads agent, status, nodes", reads_agent),
    ("registers, lists, finds", registers),
    ("deregisters", deregisters),
    ("HTTP check: passes, fails, warns, recovers", checks_http),
    ("TCP check", checks_tcp),
    ("maintenance of a service, of the node", keeps_maintenance),
    ("TTL: passes, warns, fails", feeds_ttl),
    ("TTL: expires", lets_ttl_expire),
    ("checks by themselves", registers_checks),
    ("catalog: an external node", keeps_catalog),
    ("blocking: waits, is woken by changes", blocks),
    ("blocking: sleeps on when another service changes", sleeps_on),
    ("is refused in Consul's words", is_refused),
    ("stale, consistent, with a token", asks_consistently),
    ("the server ends well, a blocking query open", shuts_down),
]
