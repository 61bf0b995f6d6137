package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"callboard.dev/interop/consul/stage"
	"github.com/hashicorp/consul/api"
)

func agentSelf() {
	self := stage.Must(agent.Self())
	name := stage.Must(agent.NodeName())
	same(self["Config"]["NodeName"].(string), name, "the node's name")
	same(self["Member"]["Name"].(string), name, "the member's name")
	datacenter := self["Config"]["Datacenter"].(string)
	sameList(stage.Must(client.Catalog().Datacenters()), []string{datacenter}, "datacenters")
	stage.Check(self["Config"]["Version"].(string) != "", "no version in %v", self["Config"])
	stage.Check(strings.Contains(stage.Must(client.Status().Leader()), ":"), "the leader is no address")
	stage.Check(len(stage.Must(client.Status().Peers())) > 0, "no peers")
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

	services := stage.Must(agent.Services())
	is := services["full-1"]
	stage.Check(is != nil && services["plain"] != nil, "not both in %v", services)
	same(is.Service, "full", "its name")
	same(is.Address, "10.1.2.3", "its address")
	same(is.Port, 81, "its port")
	sameList(is.Tags, []string{"b", "a"}, "its tags")
	same(is.Meta["team"], "checkout", "its metadata")
	same(is.Weights, api.AgentWeights{Passing: 5, Warning: 2}, "its weights")
	same(is.EnableTagOverride, true, "its tag override")
	same(is.TaggedAddresses["wan"], api.ServiceAddress{Address: "203.0.113.9", Port: 8081}, "the given tagged address")
	same(is.TaggedAddresses["lan_ipv4"], api.ServiceAddress{Address: "10.1.2.3", Port: 81}, "the implied tagged address")
	same(services["plain"].ID, "plain", "the id that is the name")
	same(services["plain"].Weights, api.AgentWeights{Passing: 1, Warning: 1}, "the weights of who gave none")

	filtered := stage.Must(agent.ServicesWithFilter(`Meta.team == "checkout" and "a" in Tags`))
	stage.Check(len(filtered) == 1 && filtered["full-1"] != nil, "filtered: %v", filtered)
	one, _, err := agent.Service("full-1", nil)
	same(stage.Must(one, err).Port, 81, "its port, by id")

	// In the health view with no check of its own: passing, and the node's check is with it.
	entries, _, err := health.Service("full", "", true, nil)
	stage.Check(len(stage.Must(entries, err)) == 1, "%d passing", len(entries))
	entry := entries[0]
	same(entry.Node.Node, stage.Must(agent.NodeName()), "its node")
	same(entry.Service.Weights, *full.Weights, "its weights in the health view")
	stage.Check(len(entry.Checks) == 1 && entry.Checks[0].CheckID == "serfHealth", "checks: %v", entry.Checks)
	same(entry.Checks.AggregatedStatus(), api.HealthPassing, "its status")

	stage.Fine(agent.ServiceDeregister("full-1"))
	sameList(all("full"), []string{}, "instances after the deregistration")
	_, _, err = agent.Service("full-1", nil)
	refused(err, http.StatusNotFound, "unknown service ID: full-1")
}

func agentRefusals() {
	defer register(&api.AgentServiceRegistration{
		Name: "refuser", Check: &api.AgentServiceCheck{CheckID: "tcp", TCP: "127.0.0.1:1", Interval: "60s"},
	})()
	refused(agent.ServiceRegister(&api.AgentServiceRegistration{Port: 1}), 400, "Missing service name")
	refused(agent.ServiceRegister(&api.AgentServiceRegistration{Name: "x", Check: &api.AgentServiceCheck{HTTP: "http://localhost"}}),
		400, "Invalid check")
	refused(agent.ServiceDeregister("nobody"), 404, `Unknown service ID "nobody"`)
	refused(agent.EnableServiceMaintenance("nobody", ""), 404, `Unknown service ID "nobody"`)
	refused(agent.CheckDeregister("nothing"), 404, `Unknown check ID "nothing"`)
	refused(agent.UpdateTTL("nothing", "", api.HealthPassing), 404, `Unknown check ID "nothing"`)
	refused(agent.UpdateTTL("tcp", "", api.HealthPassing), 500, `CheckID "tcp" does not have associated TTL`)
	refused(agent.CheckRegister(&api.AgentCheckRegistration{
		Name: "lost", ServiceID: "nobody", AgentServiceCheck: api.AgentServiceCheck{TTL: "10s"},
	}), 404, `ServiceID "nobody" does not exist`)
	_, _, err := health.Service("refuser", "", false, &api.QueryOptions{Filter: "Nonsense == 1"})
	refused(err, 500, `Selector "Nonsense" is not valid`)
	_, _, err = health.Service("refuser", "", false, &api.QueryOptions{Datacenter: "elsewhere"})
	refused(err, 500, "No path to datacenter")
	_, _, err = health.Service("refuser", "", false, &api.QueryOptions{Namespace: "other"})
	refused(err, 400, "Namespaces are a Consul Enterprise feature")
}

func httpCheck() {
	good, bad := stage.NewTarget(), stage.NewTarget()
	defer good.Close()
	defer bad.Close()
	for id, target := range map[string]*stage.Target{"http-1": good, "http-2": bad} {
		defer register(&api.AgentServiceRegistration{
			ID: id, Name: "http", Address: "127.0.0.1", Port: target.Port, Check: httpCheckOf(target),
		})()
	}
	const check = "service:http-2"
	eventuallyPassing("http", "http-1", "http-2")
	aggregated("http-2", api.HealthPassing, api.HealthPassing)

	bad.Answer(http.StatusInternalServerError)
	eventuallyPassing("http", "http-1")
	same(statusOf("http", check), api.HealthCritical, "the check")
	aggregated("http-2", api.HealthCritical, api.HealthCritical)
	output := stage.Must(agent.Checks())[check].Output
	wanted := fmt.Sprintf("HTTP GET %s: 500 Internal Server Error Output: target %d", bad.URL(), bad.Port)
	same(output, wanted, "the check's output")

	bad.Answer(http.StatusTooManyRequests)
	eventuallyStatus("http", check, api.HealthWarning)
	aggregated("http-2", api.HealthWarning, api.HealthWarning)
	sameList(passing("http"), []string{"http-1"}, "passing, when the other warns")
	sameList(all("http"), []string{"http-1", "http-2"}, "registered")
	status, infos, err := agent.AgentHealthServiceByName("http")
	stage.Must(infos, err)
	same(status, api.HealthWarning, "the status of the service by name")
	same(len(infos), 2, "instances by name")

	bad.Answer(http.StatusOK)
	eventuallyPassing("http", "http-1", "http-2")
	bad.Close()
	eventuallyPassing("http", "http-1")
	sameList(all("http"), []string{"http-1", "http-2"}, "registered, once the process is gone")
}

// aggregated compares what the agent tells of an instance: by the response's code, and in its body.
func aggregated(id, code, body string) {
	status, info, err := agent.AgentHealthServiceByID(id)
	stage.Check(stage.Must(info, err) != nil, "the agent does not know %s", id)
	same(status, code, "the status code's meaning for "+id)
	same(info.AggregatedStatus, body, "the aggregated status of "+id)
	same(info.Service.ID, id, "whose it is")
}

func severalChecks() {
	target := stage.NewTarget()
	defer target.Close()
	defer register(&api.AgentServiceRegistration{ID: "several-1", Name: "several", Checks: api.AgentServiceChecks{
		{TCP: fmt.Sprintf("127.0.0.1:%d", target.Port), Interval: "1s", Timeout: "1s"},
		{TTL: "60s", Status: api.HealthPassing, Name: "own word"},
		{HTTP: target.URL(), Interval: "1s", FailuresBeforeCritical: 1},
	}})()
	eventuallyPassing("several", "several-1")
	checks, _, err := health.Checks("several", nil)
	names := map[string]string{}
	for _, check := range stage.Must(checks, err) {
		names[check.CheckID] = check.Type + " " + check.Name
	}
	same(len(names), 3, "checks")
	same(names["service:several-1:1"], "tcp Service 'several' check", "the first check")
	same(names["service:several-1:2"], "ttl own word", "the second check")
	same(names["service:several-1:3"], "http Service 'several' check", "the third check")
	stage.Fine(agent.WarnTTL("service:several-1:2", "tired"))
	aggregated("several-1", api.HealthWarning, api.HealthWarning)
	target.Close()
	eventuallyStatus("several", "service:several-1:1", api.HealthCritical)
	eventuallyStatus("several", "service:several-1:3", api.HealthCritical)
	aggregated("several-1", api.HealthCritical, api.HealthCritical)
}

func serviceMaintenance() {
	defer register(&api.AgentServiceRegistration{ID: "maint-1", Name: "maint"})()
	defer register(&api.AgentServiceRegistration{ID: "maint-2", Name: "maint"})()
	stage.Fine(agent.EnableServiceMaintenance("maint-1", "new disks"))
	sameList(passing("maint"), []string{"maint-2"}, "passing in maintenance")
	aggregated("maint-1", api.HealthCritical, api.HealthMaint)
	check := stage.Must(agent.Checks())["_service_maintenance:maint-1"]
	stage.Check(check != nil, "no maintenance check")
	same(check.Notes, "new disks", "the reason")
	same(check.Status, api.HealthCritical, "the maintenance check")
	stage.Fine(agent.DisableServiceMaintenance("maint-1"))
	sameList(passing("maint"), []string{"maint-1", "maint-2"}, "passing after maintenance")
	stage.Check(stage.Must(agent.Checks())["_service_maintenance:maint-1"] == nil, "the maintenance check stayed")
}

func nodeMaintenance() {
	defer register(&api.AgentServiceRegistration{ID: "onnode-1", Name: "onnode"})()
	node := stage.Must(agent.NodeName())
	stage.Fine(agent.EnableNodeMaintenance("moving house"))
	sameList(passing("onnode"), []string{}, "passing, the node in maintenance")
	checks, _, err := health.Node(node, nil)
	at := slices.IndexFunc(stage.Must(checks, err), func(c *api.HealthCheck) bool { return c.CheckID == api.NodeMaint })
	stage.Check(at >= 0 && checks[at].Notes == "moving house", "the node's checks: %v", checks)
	same(checks.AggregatedStatus(), api.HealthMaint, "the node's status")
	stage.Fine(agent.DisableNodeMaintenance())
	sameList(passing("onnode"), []string{"onnode-1"}, "passing, maintenance over")
}

func standaloneChecks() {
	defer register(&api.AgentServiceRegistration{ID: "guarded-1", Name: "guarded"})()
	stage.Fine(agent.CheckRegister(&api.AgentCheckRegistration{
		ID: "guard", Name: "guard", ServiceID: "guarded-1", Notes: "by hand", AgentServiceCheck: api.AgentServiceCheck{TTL: "60s"},
	}))
	sameList(passing("guarded"), []string{}, "passing, before the new check did")
	stage.Fine(agent.PassTTL("guard", "fine"))
	sameList(passing("guarded"), []string{"guarded-1"}, "passing")
	filtered := stage.Must(agent.ChecksWithFilter(`ServiceName == "guarded"`))
	stage.Check(len(filtered) == 1 && filtered["guard"].Notes == "by hand" && filtered["guard"].Output == "fine", "checks: %v", filtered)
	stage.Fine(agent.FailTTL("guard", "broken"))
	sameList(passing("guarded"), []string{}, "passing, its check failed")
	stage.Fine(agent.CheckDeregister("guard"))
	sameList(passing("guarded"), []string{"guarded-1"}, "passing, its check removed")

	// A check without a service is the node's, and counts for all of them.
	stage.Fine(agent.CheckRegister(&api.AgentCheckRegistration{
		Name: "disk", AgentServiceCheck: api.AgentServiceCheck{TTL: "60s"},
	}))
	sameList(passing("guarded"), []string{}, "passing, a check of the node critical")
	stage.Fine(agent.CheckDeregister("disk"))
	sameList(passing("guarded"), []string{"guarded-1"}, "passing, the node's check removed")
}

func registersAgain() {
	service := &api.AgentServiceRegistration{ID: "again-1", Name: "again", Checks: api.AgentServiceChecks{
		{CheckID: "again-a", TTL: "60s"}, {CheckID: "again-b", TTL: "60s"},
	}}
	defer register(service)()
	stage.Fine(agent.PassTTL("again-a", "as before"))
	stage.Fine(agent.PassTTL("again-b", ""))
	service.Tags = []string{"new"}
	register(service)
	sameList(passing("again"), []string{"again-1"}, "passing, registered again")
	same(stage.Must(agent.Checks())["again-a"].Output, "as before", "the output")
	sameList(stage.Must(agent.Services())["again-1"].Tags, []string{"new"}, "the tags")

	service.Checks = service.Checks[:1]
	register(service)
	stage.Check(stage.Must(agent.Checks())["again-b"] != nil, "registering with fewer checks took one away")
	stage.Fine(agent.ServiceRegisterOpts(service, api.ServiceRegisterOpts{ReplaceExistingChecks: true}))
	stage.Check(stage.Must(agent.Checks())["again-b"] == nil, "replace-existing-checks left the other")
	sameList(passing("again"), []string{"again-1"}, "passing at the end")
}
