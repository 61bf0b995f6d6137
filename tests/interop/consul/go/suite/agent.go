package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"callboard.dev/interop/consul/harness"
	"github.com/hashicorp/consul/api"
)

func agentSelf() {
	self := harness.Must(agent.Self())
	name := harness.Must(agent.NodeName())
	same(self["Config"]["NodeName"].(string), name, "the node's name")
	same(self["Member"]["Name"].(string), name, "the member's name")
	datacenter := self["Config"]["Datacenter"].(string)
	sameList(harness.Must(client.Catalog().Datacenters()), []string{datacenter}, "datacenters")
	harness.Check(self["Config"]["Version"].(string) != "", "no version in %v", self["Config"])
	harness.Check(strings.Contains(harness.Must(client.Status().Leader()), ":"), "the leader is not an address")
	harness.Check(len(harness.Must(client.Status().Peers())) > 0, "no peers")
}

func agentServices() {
	full := &api.AgentServiceRegistration{
		ID: "full-1", Name: "full", Tags: []string{"b", "a"}, Address: "10.1.2.3", Port: 81,
		Meta:              map[string]string{"team": "checkout"},
		Weights:           &api.AgentWeights{Passing: 5, Warning: 2},
		TaggedAddresses:   map[string]api.ServiceAddress{"wan": {Address: "203.0.113.9", Port: 8081}},
		EnableTagOverride: true,
	}
	defer register(full)()
	defer register(&api.AgentServiceRegistration{Name: "plain", Port: 90})()

	services := harness.Must(agent.Services())
	got := services["full-1"]
	harness.Check(got != nil && services["plain"] != nil, "a service is missing in %v", services)
	same(got.Service, "full", "the name")
	same(got.Address, "10.1.2.3", "the address")
	same(got.Port, 81, "the port")
	sameList(got.Tags, []string{"b", "a"}, "the tags")
	same(got.Meta["team"], "checkout", "the metadata")
	same(got.Weights, api.AgentWeights{Passing: 5, Warning: 2}, "the weights")
	same(got.EnableTagOverride, true, "the tag override")
	same(got.TaggedAddresses["wan"], api.ServiceAddress{Address: "203.0.113.9", Port: 8081}, "the registered tagged address")
	same(got.TaggedAddresses["lan_ipv4"], api.ServiceAddress{Address: "10.1.2.3", Port: 81}, "the default tagged address")
	same(services["plain"].ID, "plain", "the default id")
	same(services["plain"].Weights, api.AgentWeights{Passing: 1, Warning: 1}, "the default weights")

	filtered := harness.Must(agent.ServicesWithFilter(`Meta.team == "checkout" and "a" in Tags`))
	harness.Check(len(filtered) == 1 && filtered["full-1"] != nil, "filtered: %v", filtered)
	one, _, err := agent.Service("full-1", nil)
	same(harness.Must(one, err).Port, 81, "the port of the service by id")

	// The service has no check of its own, so it is passing, and the health endpoint lists only the check of the node.
	entries, _, err := health.Service("full", "", true, nil)
	harness.Check(len(harness.Must(entries, err)) == 1, "%d passing", len(entries))
	entry := entries[0]
	same(entry.Node.Node, harness.Must(agent.NodeName()), "the node")
	same(entry.Service.Weights, *full.Weights, "the weights in the health endpoint")
	harness.Check(len(entry.Checks) == 1 && entry.Checks[0].CheckID == "serfHealth", "checks: %v", entry.Checks)
	same(entry.Checks.AggregatedStatus(), api.HealthPassing, "the status")

	harness.NoError(agent.ServiceDeregister("full-1"))
	sameList(registered("full"), []string{}, "instances after the deregistration")
	_, _, err = agent.Service("full-1", nil)
	expectError(err, http.StatusNotFound, "unknown service ID: full-1")
}

func agentErrors() {
	defer register(&api.AgentServiceRegistration{
		Name: "refuser", Check: &api.AgentServiceCheck{CheckID: "tcp", TCP: "127.0.0.1:1", Interval: "60s"},
	})()
	expectError(agent.ServiceRegister(&api.AgentServiceRegistration{Port: 1}), 400, "Missing service name")
	expectError(agent.ServiceRegister(&api.AgentServiceRegistration{Name: "x", Check: &api.AgentServiceCheck{HTTP: "http://localhost"}}),
		400, "Invalid check")
	expectError(agent.ServiceDeregister("nobody"), 404, `Unknown service ID "nobody"`)
	expectError(agent.EnableServiceMaintenance("nobody", ""), 404, `Unknown service ID "nobody"`)
	expectError(agent.CheckDeregister("nothing"), 404, `Unknown check ID "nothing"`)
	expectError(agent.UpdateTTL("nothing", "", api.HealthPassing), 404, `Unknown check ID "nothing"`)
	expectError(agent.UpdateTTL("tcp", "", api.HealthPassing), 500, `CheckID "tcp" does not have associated TTL`)
	expectError(agent.CheckRegister(&api.AgentCheckRegistration{
		Name: "lost", ServiceID: "nobody", AgentServiceCheck: api.AgentServiceCheck{TTL: "10s"},
	}), 404, `ServiceID "nobody" does not exist`)
	_, _, err := health.Service("refuser", "", false, &api.QueryOptions{Filter: "Nonsense == 1"})
	expectError(err, 500, `Selector "Nonsense" is not valid`)
	_, _, err = health.Service("refuser", "", false, &api.QueryOptions{Datacenter: "elsewhere"})
	expectError(err, 500, "No path to datacenter")
	_, _, err = health.Service("refuser", "", false, &api.QueryOptions{Namespace: "other"})
	expectError(err, 400, "Namespaces are a Consul Enterprise feature")
}

func httpCheck() {
	good, bad := harness.NewTarget(), harness.NewTarget()
	defer good.Close()
	defer bad.Close()
	for id, target := range map[string]*harness.Target{"http-1": good, "http-2": bad} {
		defer register(&api.AgentServiceRegistration{
			ID: id, Name: "http", Address: "127.0.0.1", Port: target.Port, Check: httpCheckOf(target),
		})()
	}
	const check = "service:http-2"
	eventuallyPassing("http", "http-1", "http-2")
	aggregated("http-2", api.HealthPassing, api.HealthPassing)

	bad.SetStatus(http.StatusInternalServerError)
	eventuallyPassing("http", "http-1")
	same(statusOf("http", check), api.HealthCritical, "the check")
	aggregated("http-2", api.HealthCritical, api.HealthCritical)
	output := harness.Must(agent.Checks())[check].Output
	expected := fmt.Sprintf("HTTP GET %s: 500 Internal Server Error Output: target %d", bad.URL(), bad.Port)
	same(output, expected, "the output of the check")

	bad.SetStatus(http.StatusTooManyRequests)
	eventuallyStatus("http", check, api.HealthWarning)
	aggregated("http-2", api.HealthWarning, api.HealthWarning)
	sameList(passing("http"), []string{"http-1"}, "passing while one warns")
	sameList(registered("http"), []string{"http-1", "http-2"}, "registered")
	status, infos, err := agent.AgentHealthServiceByName("http")
	harness.Must(infos, err)
	same(status, api.HealthWarning, "the status of the service by name")
	same(len(infos), 2, "instances by name")

	bad.SetStatus(http.StatusOK)
	eventuallyPassing("http", "http-1", "http-2")
	bad.Close()
	eventuallyPassing("http", "http-1")
	sameList(registered("http"), []string{"http-1", "http-2"}, "registered after the target was closed")
}

// aggregated checks the status that the agent reports for an instance, in the response's code and in its body.
func aggregated(id, code, body string) {
	status, info, err := agent.AgentHealthServiceByID(id)
	harness.Check(harness.Must(info, err) != nil, "the agent does not know %s", id)
	same(status, code, "the status by the response's code for "+id)
	same(info.AggregatedStatus, body, "the aggregated status of "+id)
	same(info.Service.ID, id, "the id of the service")
}

func severalChecks() {
	target := harness.NewTarget()
	defer target.Close()
	defer register(&api.AgentServiceRegistration{ID: "several-1", Name: "several", Checks: api.AgentServiceChecks{
		{TCP: fmt.Sprintf("127.0.0.1:%d", target.Port), Interval: "1s", Timeout: "1s"},
		{TTL: "60s", Status: api.HealthPassing, Name: "own word"},
		{HTTP: target.URL(), Interval: "1s", FailuresBeforeCritical: 1},
	}})()
	eventuallyPassing("several", "several-1")
	checks, _, err := health.Checks("several", nil)
	names := map[string]string{}
	for _, check := range harness.Must(checks, err) {
		names[check.CheckID] = check.Type + " " + check.Name
	}
	same(len(names), 3, "checks")
	same(names["service:several-1:1"], "tcp Service 'several' check", "the first check")
	same(names["service:several-1:2"], "ttl own word", "the second check")
	same(names["service:several-1:3"], "http Service 'several' check", "the third check")
	harness.NoError(agent.WarnTTL("service:several-1:2", "tired"))
	aggregated("several-1", api.HealthWarning, api.HealthWarning)
	target.Close()
	eventuallyStatus("several", "service:several-1:1", api.HealthCritical)
	eventuallyStatus("several", "service:several-1:3", api.HealthCritical)
	aggregated("several-1", api.HealthCritical, api.HealthCritical)
}

func serviceMaintenance() {
	defer register(&api.AgentServiceRegistration{ID: "maint-1", Name: "maint"})()
	defer register(&api.AgentServiceRegistration{ID: "maint-2", Name: "maint"})()
	harness.NoError(agent.EnableServiceMaintenance("maint-1", "new disks"))
	sameList(passing("maint"), []string{"maint-2"}, "passing while one is in maintenance")
	aggregated("maint-1", api.HealthCritical, api.HealthMaint)
	check := harness.Must(agent.Checks())["_service_maintenance:maint-1"]
	harness.Check(check != nil, "no maintenance check")
	same(check.Notes, "new disks", "the reason")
	same(check.Status, api.HealthCritical, "the maintenance check")
	harness.NoError(agent.DisableServiceMaintenance("maint-1"))
	sameList(passing("maint"), []string{"maint-1", "maint-2"}, "passing after maintenance")
	harness.Check(harness.Must(agent.Checks())["_service_maintenance:maint-1"] == nil, "the maintenance check was not removed")
}

func nodeMaintenance() {
	defer register(&api.AgentServiceRegistration{ID: "onnode-1", Name: "onnode"})()
	node := harness.Must(agent.NodeName())
	harness.NoError(agent.EnableNodeMaintenance("new rack"))
	sameList(passing("onnode"), []string{}, "passing while the node is in maintenance")
	checks, _, err := health.Node(node, nil)
	at := slices.IndexFunc(harness.Must(checks, err), func(c *api.HealthCheck) bool { return c.CheckID == api.NodeMaint })
	harness.Check(at >= 0 && checks[at].Notes == "new rack", "the node's checks: %v", checks)
	same(checks.AggregatedStatus(), api.HealthMaint, "the node's status")
	harness.NoError(agent.DisableNodeMaintenance())
	sameList(passing("onnode"), []string{"onnode-1"}, "passing after maintenance")
}

func standaloneChecks() {
	defer register(&api.AgentServiceRegistration{ID: "guarded-1", Name: "guarded"})()
	harness.NoError(agent.CheckRegister(&api.AgentCheckRegistration{
		ID: "guard", Name: "guard", ServiceID: "guarded-1", Notes: "by hand", AgentServiceCheck: api.AgentServiceCheck{TTL: "60s"},
	}))
	sameList(passing("guarded"), []string{}, "passing before the first report to the check")
	harness.NoError(agent.PassTTL("guard", "fine"))
	sameList(passing("guarded"), []string{"guarded-1"}, "passing")
	filtered := harness.Must(agent.ChecksWithFilter(`ServiceName == "guarded"`))
	harness.Check(len(filtered) == 1 && filtered["guard"].Notes == "by hand" && filtered["guard"].Output == "fine", "checks: %v", filtered)
	harness.NoError(agent.FailTTL("guard", "broken"))
	sameList(passing("guarded"), []string{}, "passing after the check failed")
	harness.NoError(agent.CheckDeregister("guard"))
	sameList(passing("guarded"), []string{"guarded-1"}, "passing after the check was removed")

	// A check without a service belongs to the node, and counts for all services of the node.
	harness.NoError(agent.CheckRegister(&api.AgentCheckRegistration{
		Name: "disk", AgentServiceCheck: api.AgentServiceCheck{TTL: "60s"},
	}))
	sameList(passing("guarded"), []string{}, "passing while a check of the node is critical")
	harness.NoError(agent.CheckDeregister("disk"))
	sameList(passing("guarded"), []string{"guarded-1"}, "passing after the check of the node was removed")
}

func registersAgain() {
	service := &api.AgentServiceRegistration{ID: "again-1", Name: "again", Checks: api.AgentServiceChecks{
		{CheckID: "again-a", TTL: "60s"}, {CheckID: "again-b", TTL: "60s"},
	}}
	defer register(service)()
	harness.NoError(agent.PassTTL("again-a", "as before"))
	harness.NoError(agent.PassTTL("again-b", ""))
	service.Tags = []string{"new"}
	register(service)
	sameList(passing("again"), []string{"again-1"}, "passing after the second registration")
	same(harness.Must(agent.Checks())["again-a"].Output, "as before", "the output")
	sameList(harness.Must(agent.Services())["again-1"].Tags, []string{"new"}, "the tags")

	service.Checks = service.Checks[:1]
	register(service)
	harness.Check(harness.Must(agent.Checks())["again-b"] != nil, "registering with fewer checks removed a check")
	harness.NoError(agent.ServiceRegisterOpts(service, api.ServiceRegisterOpts{ReplaceExistingChecks: true}))
	harness.Check(harness.Must(agent.Checks())["again-b"] == nil, "replace-existing-checks did not remove the other check")
	sameList(passing("again"), []string{"again-1"}, "passing at the end")
}
