"""Steps that use only the functions which py-consul and python-consul have in common."""

import time

import consul
from fixture import EVENT_TIMEOUT, LONG_WAIT, Fixture, Target, check, eventually, expect_error, same


def reads_agent(w: Fixture) -> None:
    me = w.client.agent.self()
    node, datacenter = me["Config"]["NodeName"], me["Config"]["Datacenter"]
    check(":" in w.client.status.leader(), "the leader is not an address")
    check(w.client.status.peers(), "no peers")
    same(w.client.catalog.datacenters(), [datacenter], "datacenters")
    _, nodes = w.client.catalog.nodes()
    same([n["Node"] for n in nodes], [node], "nodes")


def registers(w: Fixture) -> None:
    service = w.client.agent.service
    check(service.register("web", service_id="web-1", address="127.0.0.1", port=8001, tags=["a", "b"]), "the call returned False")
    check(service.register("web", service_id="web-2", address="127.0.0.1", port=8002, tags=["b"]), "the call returned False")
    check(service.register("plain"), "the call returned False")
    services = w.client.agent.services()
    same(services["web-1"]["Port"], 8001, "the port")
    same(services["web-1"]["Tags"], ["a", "b"], "the tags")
    same(services["plain"]["ID"], "plain", "the default id")
    same(w.passing("web"), ["web-1", "web-2"], "passing")
    same(w.ids("web", tag="a"), ["web-1"], "instances with the tag a")
    _, names = w.client.catalog.services()
    same(sorted(names["web"]), ["a", "b"], "the tags in the catalog")
    _, instances = w.client.catalog.service("web", tag="a")
    same([(i["ServiceID"], i["ServiceAddress"], i["ServicePort"]) for i in instances], [("web-1", "127.0.0.1", 8001)], "instances")
    _, node = w.client.catalog.node(instances[0]["Node"])
    check("web-1" in node["Services"], f"the instance is not listed for its node: {node}")


def deregisters(w: Fixture) -> None:
    check(w.client.agent.service.deregister("web-1"), "the call returned False")
    same(w.ids("web"), ["web-2"], "instances")
    check(w.client.agent.service.deregister("web-2"), "the call returned False")
    check(w.client.agent.service.deregister("plain"), "the call returned False")
    same(w.ids("web"), [], "instances")
    _, names = w.client.catalog.services()
    check("web" not in names, f"still in the catalog: {names}")
    same(w.client.agent.service.deregister("web-1"), False, "the second deregistration")


def checks_http(w: Fixture) -> None:
    good, bad = Target(), Target()
    for id, target in (("http-1", good), ("http-2", bad)):
        http = consul.Check.http(target.url, "1s", timeout="1s", deregister="1m", header={"x-probe": ["yes"]})
        w.client.agent.service.register("http", service_id=id, address="127.0.0.1", port=target.port, check=http)

    def status() -> str:
        return {c["CheckID"]: c["Status"] for c in w.client.health.checks("http")[1]}["service:http-2"]

    eventually("passing", lambda: w.passing("http"), ["http-1", "http-2"])
    bad.status = 500
    eventually("passing while one is critical", lambda: w.passing("http"), ["http-1"])
    same(status(), "critical", "the check with status 500")
    output = w.client.agent.checks()["service:http-2"]["Output"]
    check(f"HTTP GET {bad.url}: 500" in output, f"output {output!r}")
    bad.status = 429
    eventually("the check with status 429", status, "warning")
    same(w.passing("http"), ["http-1"], "passing while one warns")
    bad.status = 200
    eventually("passing after the recovery", lambda: w.passing("http"), ["http-1", "http-2"])
    for id in ("http-1", "http-2"):
        w.client.agent.service.deregister(id)


def checks_tcp(w: Fixture) -> None:
    target = Target()
    w.client.agent.service.register("tcp", check=consul.Check.tcp("127.0.0.1", target.port, "1s", timeout="1s"))
    eventually("passing", lambda: w.passing("tcp"), ["tcp"])
    w.client.agent.service.deregister("tcp")


def sets_maintenance(w: Fixture) -> None:
    w.client.agent.service.register("maint", service_id="maint-1")
    check(w.client.agent.service.maintenance("maint-1", True, "new disks"), "the call returned False")
    same(w.passing("maint"), [], "passing in maintenance")
    same(w.client.agent.checks()["_service_maintenance:maint-1"]["Notes"], "new disks", "the reason")
    check(w.client.agent.service.maintenance("maint-1", False), "the call returned False")
    same(w.passing("maint"), ["maint-1"], "passing after maintenance")
    check(w.client.agent.maintenance(True, "new rack"), "the call returned False")
    same(w.passing("maint"), [], "passing while the node is in maintenance")
    check(w.client.agent.maintenance(False), "the call returned False")
    same(w.passing("maint"), ["maint-1"], "passing after maintenance of the node")
    w.client.agent.service.deregister("maint-1")


def reports_ttl(w: Fixture) -> None:
    w.client.agent.service.register("ttl", service_id="ttl-1", check=consul.Check.ttl("60s"))
    checks = w.client.agent.check
    for report, state in ((checks.ttl_pass, "passing"), (checks.ttl_warn, "warning"), (checks.ttl_fail, "critical")):
        check(report("service:ttl-1", f"note of {state}"), "the call returned False")
        for listed in ("passing", "warning", "critical", "any"):
            found = any(c["CheckID"] == "service:ttl-1" for c in w.client.health.state(listed)[1])
            same(found, listed in (state, "any"), f"a check in state {state} is listed as {listed}")
        same(w.client.agent.checks()["service:ttl-1"]["Output"], f"note of {state}", "the output")
        same(w.passing("ttl"), ["ttl-1"] if state == "passing" else [], f"passing after a report of {state}")
    w.client.agent.service.deregister("ttl-1")


def expires_ttl(w: Fixture) -> None:
    w.client.agent.service.register("brief", service_id="brief-1", check=consul.Check.ttl("1s"))
    reported = time.monotonic()
    w.client.agent.check.ttl_pass("service:brief-1", "last report")
    same(w.passing("brief"), ["brief-1"], "passing")
    eventually("passing after the expiry", lambda: w.passing("brief"), [])
    took = time.monotonic() - reported
    check(0.95 < took < 2, f"expired after {took:.2f} s, not after one second")
    output = w.client.agent.checks()["service:brief-1"]["Output"]
    check(output.startswith("TTL expired") and "last report" in output, f"output {output!r}")
    w.client.agent.service.deregister("brief-1")


def registers_checks(w: Fixture) -> None:
    w.client.agent.service.register("guarded", service_id="guarded-1")
    check(w.client.agent.check.register("guard", consul.Check.ttl("60s"), service_id="guarded-1", notes="by hand"), "the call returned False")
    same(w.passing("guarded"), [], "passing before the first report to the check")
    w.client.agent.check.ttl_pass("guard")
    same(w.passing("guarded"), ["guarded-1"], "passing")
    node = w.client.agent.self()["Config"]["NodeName"]
    check("guard" in [c["CheckID"] for c in w.client.health.node(node)[1]], "the check is not listed for the node")
    w.client.agent.check.ttl_fail("guard")
    check(w.client.agent.check.deregister("guard"), "the call returned False")
    same(w.passing("guarded"), ["guarded-1"], "passing after the check was removed")
    w.client.agent.service.deregister("guarded-1")


def registers_in_catalog(w: Fixture) -> None:
    check(
        w.client.catalog.register(
            "outside",
            "10.9.8.7",
            service={"service": "db", "id": "db-1", "port": 5432, "tags": ["primary"]},
            check={"name": "db", "checkid": "db-check", "status": "passing", "serviceid": "db-1"},
        ),
        "the call returned False",
    )
    same(w.passing("db"), ["db-1"], "passing")
    _, node = w.client.catalog.node("outside")
    same(list(node["Services"]), ["db-1"], "services of the node")
    check(w.client.catalog.deregister("outside", service_id="db-1"), "the call returned False")
    same(w.ids("db"), [], "instances after the deregistration")
    check(w.client.catalog.deregister("outside"), "the call returned False")
    same(w.client.catalog.node("outside")[1], None, "the node after its deregistration")


def blocks(w: Fixture) -> None:
    w.client.agent.service.register("busy", service_id="busy-1")
    ids, index, _ = w.query("busy", None, LONG_WAIT)
    again, at, took = w.query("busy", index, "1s")
    check(1 <= took < 1.2, f"waited {took:.2f} s instead of 1 s")
    same((again, int(at) <= int(index)), (ids, True), "ids, and whether the index is not higher")

    def expect_change(act, *wanted: str) -> None:
        nonlocal index
        answer = w.query_in_background("busy", index, LONG_WAIT)
        act()
        ids, at, took = answer.result(EVENT_TIMEOUT)
        same(ids, list(wanted), "ids in the response")
        check(int(at) > int(index), f"answered with index {at} after {index}")
        index = at

    agent = w.client.agent
    expect_change(lambda: agent.service.register("busy", service_id="busy-2", check=consul.Check.ttl("60s")), "busy-1")
    expect_change(lambda: agent.check.ttl_pass("service:busy-2"), "busy-1", "busy-2")
    expect_change(lambda: agent.service.maintenance("busy-1", True), "busy-2")
    expect_change(lambda: agent.service.deregister("busy-1"), "busy-2")
    expect_change(lambda: agent.service.deregister("busy-2"))


def ignores_other_services(w: Fixture) -> None:
    w.client.agent.service.register("calm", service_id="calm-1")
    _, index, _ = w.query("calm", None, LONG_WAIT)
    answer = w.query_in_background("calm", index, "2s")
    w.client.agent.service.register("loud", service_id="loud-1", check=consul.Check.ttl("60s"))
    w.client.agent.check.ttl_pass("service:loud-1")
    w.client.agent.service.deregister("loud-1")
    ids, at, took = answer.result(EVENT_TIMEOUT)
    check(2 <= took < 2.3 and int(at) <= int(index), f"answered after {took:.2f} s, index {at} after {index}")
    same(ids, ["calm-1"], "passing after the wait")
    w.client.agent.service.deregister("calm-1")


def gets_errors(w: Fixture) -> None:
    expect_error(consul.ConsulException, "400 Missing service name", lambda: w.client.agent.service.register(""))
    expect_error(consul.ConsulException, "No path to datacenter", lambda: w.client.health.service("web", dc="elsewhere"))
    expect_error(consul.ConsulException, "501", lambda: w.client.kv.get("anything"))


def uses_consistency_modes(w: Fixture) -> None:
    host, port = w.server.http.rsplit(":", 1)
    for consistency in ("stale", "consistent"):
        client = consul.Consul(host=host, port=int(port), consistency=consistency, token="nobody-asks-for-it")
        client.agent.service.register("modes")
        same(len(client.health.service("modes", passing=True)[1]), 1, f"passing with consistency mode {consistency}")
        client.agent.service.deregister("modes")


def shuts_down(w: Fixture) -> None:
    w.client.agent.service.register("last")
    _, index, _ = w.query("last", None, LONG_WAIT)
    w.query_in_background("last", index, "30s")
    code, took = w.server.terminate(6)
    same(code, 0, f"the exit code after {took:.1f} s")


STEPS = [
    ("reads agent, status and nodes", reads_agent),
    ("registers instances, and lists them", registers),
    ("deregisters instances", deregisters),
    ("checks by HTTP: passes, fails, warns, recovers", checks_http),
    ("checks by TCP", checks_tcp),
    ("sets maintenance of a service and of the node", sets_maintenance),
    ("reports TTL checks: passes, warns, fails", reports_ttl),
    ("lets a TTL check expire", expires_ttl),
    ("registers checks separately", registers_checks),
    ("registers an external node in the catalog", registers_in_catalog),
    ("blocks until a change or the end of the wait", blocks),
    ("blocks while another service changes", ignores_other_services),
    ("gets errors with Consul's texts", gets_errors),
    ("queries with modes stale and consistent, and with a token", uses_consistency_modes),
    ("the server exits with code 0 while a blocking query is open", shuts_down),
]
