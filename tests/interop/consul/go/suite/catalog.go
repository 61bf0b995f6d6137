package main

import (
	"maps"
	"slices"

	"callboard.dev/interop/consul/harness"
	"github.com/hashicorp/consul/api"
)

func catalogNode() {
	catalog := client.Catalog()
	_, err := catalog.Register(&api.CatalogRegistration{
		Node: "outside", Address: "10.9.8.7", NodeMeta: map[string]string{"rack": "r1"},
		Service: &api.AgentService{ID: "db-1", Service: "db", Port: 5432, Tags: []string{"primary"}},
		Check:   &api.AgentCheck{Node: "outside", CheckID: "db-check", Name: "db", Status: api.HealthPassing, ServiceID: "db-1"},
	}, nil)
	harness.NoError(err)
	nodes, _, err := catalog.Nodes(&api.QueryOptions{NodeMeta: map[string]string{"rack": "r1"}})
	harness.Check(len(harness.Must(nodes, err)) == 1 && nodes[0].Node == "outside" && nodes[0].Address == "10.9.8.7", "nodes: %v", nodes)
	nodes, _, err = catalog.Nodes(nil)
	same(len(harness.Must(nodes, err)), 2, "nodes, the server's and the external one")

	services, _, err := catalog.Service("db", "primary", nil)
	harness.Check(len(harness.Must(services, err)) == 1, "%d services", len(services))
	same(services[0].ServiceID, "db-1", "the id of the service")
	same(services[0].ServicePort, 5432, "the port")
	same(services[0].Address, "10.9.8.7", "the address of the node")
	same(services[0].NodeMeta["rack"], "r1", "the metadata of the node")
	// Go's client sends unset weights as 0.
	same(services[0].ServiceWeights, api.Weights{Passing: 1, Warning: 1}, "the weights")
	node, _, err := catalog.Node("outside", nil)
	harness.Check(harness.Must(node, err) != nil && node.Services["db-1"].Service == "db", "the node: %+v", node)
	list, _, err := catalog.NodeServiceList("outside", nil)
	harness.Check(len(harness.Must(list, err).Services) == 1 && list.Services[0].ID == "db-1", "services of the node: %+v", list)
	sameList(passing("db"), []string{"db-1"}, "passing")
	same(statusOf("db", "db-check"), api.HealthPassing, "the check")

	// No agent checks an external node. The client that registered it also reports the status of its checks.
	_, err = catalog.Register(&api.CatalogRegistration{
		Node: "outside", Address: "10.9.8.7", SkipNodeUpdate: true,
		Check: &api.AgentCheck{Node: "outside", CheckID: "db-check", Name: "db", Status: api.HealthCritical, ServiceID: "db-1"},
	}, nil)
	harness.NoError(err)
	sameList(passing("db"), []string{}, "passing after the check was reported critical")

	harness.Check(harness.Must(agent.Services())["db-1"] == nil, "the agent lists a service of another node")
	_, err = catalog.Deregister(&api.CatalogDeregistration{Node: "outside", ServiceID: "db-1"}, nil)
	harness.NoError(err)
	sameList(registered("db"), []string{}, "instances after the deregistration")
	_, err = catalog.Deregister(&api.CatalogDeregistration{Node: "outside"}, nil)
	harness.NoError(err)
	node, _, err = catalog.Node("outside", nil)
	harness.Check(err == nil && node == nil, "the node after its deregistration: %+v, %v", node, err)
	_, err = catalog.Deregister(&api.CatalogDeregistration{Node: "nobody"}, nil)
	harness.NoError(err)
}

func catalogServices() {
	defer register(&api.AgentServiceRegistration{ID: "shop-1", Name: "shop", Tags: []string{"a", "b"}, Port: 1})()
	defer register(&api.AgentServiceRegistration{ID: "shop-2", Name: "shop", Tags: []string{"b", "c"}, Port: 2})()
	catalog := client.Catalog()
	names, _, err := catalog.Services(nil)
	tags := harness.Must(names, err)["shop"]
	slices.Sort(tags)
	sameList(tags, []string{"a", "b", "c"}, "tags")

	tagged := func(tags ...string) int {
		services, _, err := catalog.ServiceMultipleTags("shop", tags, nil)
		return len(harness.Must(services, err))
	}
	same(tagged(), 2, "instances")
	same(tagged("b"), 2, "instances tagged b")
	same(tagged("b", "c"), 1, "instances tagged b and c")
	same(tagged("a", "c"), 0, "instances tagged a and c")
	services, _, err := catalog.Service("shop", "", &api.QueryOptions{Filter: "ServicePort == 2"})
	harness.Check(len(harness.Must(services, err)) == 1 && services[0].ServiceID == "shop-2", "filtered: %v", services)

	node, _, err := catalog.Node(harness.Must(agent.NodeName()), nil)
	harness.Check(harness.Must(node, err) != nil && node.Services["shop-1"].Port == 1, "the server's node: %+v", node)
	unknown, _, err := catalog.Node("nobody", nil)
	harness.Check(err == nil && unknown == nil, "an unknown node: %+v, %v", unknown, err)
	none, _, err := catalog.Service("nothing", "", nil)
	harness.Check(err == nil && len(none) == 0, "an unknown service: %+v, %v", none, err)
}

// A filter selects names by the fields of their instances and nodes. Prometheus lets its users set such a filter.
func catalogFilters() {
	catalog := client.Catalog()
	_, err := catalog.Register(&api.CatalogRegistration{
		Node: "shelved", Address: "10.9.8.6", NodeMeta: map[string]string{"shelf": "top"},
		Service: &api.AgentService{
			Service: "jam", Port: 9100, Meta: map[string]string{"fruit": "plum"}, Weights: api.AgentWeights{Passing: 1, Warning: 1},
		},
	}, nil)
	harness.NoError(err)
	defer catalog.Deregister(&api.CatalogDeregistration{Node: "shelved"}, nil)
	for _, filter := range []string{
		`ServiceName == jam`,
		`NodeMeta.shelf == top`,
		`NodeMeta["shelf"] == "top" and ServiceMeta.fruit == plum`,
		`Node == shelved and ServicePort == 9100`,
	} {
		services, _, err := catalog.Services(&api.QueryOptions{Filter: filter})
		sameList(slices.Collect(maps.Keys(harness.Must(services, err))), []string{"jam"}, filter)
	}
}

func healthFilters() {
	defer register(&api.AgentServiceRegistration{
		ID: "sieve-1", Name: "sieve", Tags: []string{"Blue", "v1"}, Port: 1, Meta: map[string]string{"team": "checkout"},
	})()
	defer register(&api.AgentServiceRegistration{
		ID: "sieve-2", Name: "sieve", Tags: []string{"Blue", "v2"}, Port: 2, Check: &api.AgentServiceCheck{TTL: "60s"},
	})()
	for filter, wanted := range map[string][]string{
		`Service.Meta.team == checkout`:                          {"sieve-1"},
		`"v2" in Service.Tags`:                                   {"sieve-2"},
		`Service.Tags contains v1`:                               {"sieve-1"},
		`Service.Kind == "" and Service.Port == 1`:               {"sieve-1"},
		`Service.Port != 2 and not Service.Tags is empty`:        {"sieve-1"},
		`Checks.Status == critical`:                              {"sieve-2"},
		`Service.ID matches "^sieve-[12]$"`:                      {"sieve-1", "sieve-2"},
		`Service.Meta["team"] is not empty or Service.Port == 2`: {"sieve-1", "sieve-2"},
	} {
		entries, _, err := health.Service("sieve", "", false, &api.QueryOptions{Filter: filter})
		sameList(ids(harness.Must(entries, err)), wanted, filter)
	}
	_, _, err := health.Service("sieve", "", false, &api.QueryOptions{Filter: "Service.Port === 2"})
	expectError(err, 500, "Failed to create boolean expression evaluator")
	tagged := func(tags ...string) []string {
		entries, _, err := health.ServiceMultipleTags("sieve", tags, false, nil)
		return ids(harness.Must(entries, err))
	}
	sameList(tagged("blue"), []string{"sieve-1", "sieve-2"}, "tagged blue, which ignores case")
	sameList(tagged("Blue", "v2"), []string{"sieve-2"}, "tagged Blue and v2")
	sameList(tagged("v1", "v2"), []string{}, "tagged v1 and v2")
}

func healthViews() {
	defer register(&api.AgentServiceRegistration{
		ID: "view-1", Name: "view", Check: &api.AgentServiceCheck{CheckID: "view-check", TTL: "60s", Notes: "a note"},
	})()
	node := harness.Must(agent.NodeName())
	has := func(checks api.HealthChecks, _ *api.QueryMeta, err error) *api.HealthCheck {
		for _, check := range harness.Must(checks, err) {
			if check.CheckID == "view-check" {
				return check
			}
		}
		return nil
	}
	check := has(health.Checks("view", nil))
	harness.Check(check != nil, "the check is not listed for the service")
	same(check.Node, node, "the node")
	same(check.Name, "Service 'view' check", "the name")
	same(check.Notes, "a note", "the notes")
	same(check.ServiceID, "view-1", "the service")
	same(check.Type, "ttl", "the type")
	harness.Check(has(health.Node(node, nil)) != nil, "the check is not listed for the node")
	for _, now := range []string{api.HealthCritical, api.HealthWarning, api.HealthPassing} {
		harness.NoError(agent.UpdateTTL("view-check", "", now))
		for _, state := range []string{api.HealthCritical, api.HealthWarning, api.HealthPassing, api.HealthAny} {
			found := has(health.State(state, nil)) != nil
			same(found, state == now || state == api.HealthAny, "a check in state "+now+" is listed as "+state)
		}
	}
	none, _, err := health.Checks("nothing", nil)
	harness.Check(err == nil && len(none) == 0, "checks of an unknown service: %v, %v", none, err)
}
