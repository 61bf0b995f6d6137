package main

import (
	"maps"
	"slices"

	"callboard.dev/interop/consul/stage"
	"github.com/hashicorp/consul/api"
)

func catalogNode() {
	catalog := client.Catalog()
	_, err := catalog.Register(&api.CatalogRegistration{
		Node: "outside", Address: "10.9.8.7", NodeMeta: map[string]string{"rack": "r1"},
		Service: &api.AgentService{ID: "db-1", Service: "db", Port: 5432, Tags: []string{"primary"}},
		Check:   &api.AgentCheck{Node: "outside", CheckID: "db-check", Name: "db", Status: api.HealthPassing, ServiceID: "db-1"},
	}, nil)
	stage.Fine(err)
	nodes, _, err := catalog.Nodes(&api.QueryOptions{NodeMeta: map[string]string{"rack": "r1"}})
	stage.Check(len(stage.Must(nodes, err)) == 1 && nodes[0].Node == "outside" && nodes[0].Address == "10.9.8.7", "nodes: %v", nodes)
	nodes, _, err = catalog.Nodes(nil)
	same(len(stage.Must(nodes, err)), 2, "nodes, this one and that one")

	services, _, err := catalog.Service("db", "primary", nil)
	stage.Check(len(stage.Must(services, err)) == 1, "%d services", len(services))
	same(services[0].ServiceID, "db-1", "the service's id")
	same(services[0].ServicePort, 5432, "its port")
	same(services[0].Address, "10.9.8.7", "its node's address")
	same(services[0].NodeMeta["rack"], "r1", "its node's metadata")
	// Go's client writes weights of 0 for those that nobody set.
	same(services[0].ServiceWeights, api.Weights{Passing: 1, Warning: 1}, "its weights")
	node, _, err := catalog.Node("outside", nil)
	stage.Check(stage.Must(node, err) != nil && node.Services["db-1"].Service == "db", "the node: %+v", node)
	list, _, err := catalog.NodeServiceList("outside", nil)
	stage.Check(len(stage.Must(list, err).Services) == 1 && list.Services[0].ID == "db-1", "its services: %+v", list)
	sameList(passing("db"), []string{"db-1"}, "passing")
	same(statusOf("db", "db-check"), api.HealthPassing, "the check")

	// Whoever registers for others reports for them, too: no agent does.
	_, err = catalog.Register(&api.CatalogRegistration{
		Node: "outside", Address: "10.9.8.7", SkipNodeUpdate: true,
		Check: &api.AgentCheck{Node: "outside", CheckID: "db-check", Name: "db", Status: api.HealthCritical, ServiceID: "db-1"},
	}, nil)
	stage.Fine(err)
	sameList(passing("db"), []string{}, "passing, reported critical")

	stage.Check(stage.Must(agent.Services())["db-1"] == nil, "the agent claims a service of another node")
	_, err = catalog.Deregister(&api.CatalogDeregistration{Node: "outside", ServiceID: "db-1"}, nil)
	stage.Fine(err)
	sameList(all("db"), []string{}, "instances, the service deregistered")
	_, err = catalog.Deregister(&api.CatalogDeregistration{Node: "outside"}, nil)
	stage.Fine(err)
	node, _, err = catalog.Node("outside", nil)
	stage.Check(err == nil && node == nil, "the node, deregistered: %+v, %v", node, err)
	_, err = catalog.Deregister(&api.CatalogDeregistration{Node: "nobody"}, nil)
	stage.Fine(err)
}

func catalogServices() {
	defer register(&api.AgentServiceRegistration{ID: "shop-1", Name: "shop", Tags: []string{"a", "b"}, Port: 1})()
	defer register(&api.AgentServiceRegistration{ID: "shop-2", Name: "shop", Tags: []string{"b", "c"}, Port: 2})()
	catalog := client.Catalog()
	names, _, err := catalog.Services(nil)
	tags := stage.Must(names, err)["shop"]
	slices.Sort(tags)
	sameList(tags, []string{"a", "b", "c"}, "tags")

	tagged := func(tags ...string) int {
		services, _, err := catalog.ServiceMultipleTags("shop", tags, nil)
		return len(stage.Must(services, err))
	}
	same(tagged(), 2, "instances")
	same(tagged("b"), 2, "instances tagged b")
	same(tagged("b", "c"), 1, "instances tagged b and c")
	same(tagged("a", "c"), 0, "instances tagged a and c")
	services, _, err := catalog.Service("shop", "", &api.QueryOptions{Filter: "ServicePort == 2"})
	stage.Check(len(stage.Must(services, err)) == 1 && services[0].ServiceID == "shop-2", "filtered: %v", services)

	node, _, err := catalog.Node(stage.Must(agent.NodeName()), nil)
	stage.Check(stage.Must(node, err) != nil && node.Services["shop-1"].Port == 1, "this node: %+v", node)
	nobody, _, err := catalog.Node("nobody", nil)
	stage.Check(err == nil && nobody == nil, "an unknown node: %+v, %v", nobody, err)
	none, _, err := catalog.Service("nothing", "", nil)
	stage.Check(err == nil && len(none) == 0, "an unknown service: %+v, %v", none, err)
}

// The list of names is filtered by what its instances and their nodes are, as Prometheus lets its users do.
func catalogFilters() {
	catalog := client.Catalog()
	_, err := catalog.Register(&api.CatalogRegistration{
		Node: "shelved", Address: "10.9.8.6", NodeMeta: map[string]string{"shelf": "top"},
		Service: &api.AgentService{
			Service: "jam", Port: 9100, Meta: map[string]string{"fruit": "plum"}, Weights: api.AgentWeights{Passing: 1, Warning: 1},
		},
	}, nil)
	stage.Fine(err)
	defer catalog.Deregister(&api.CatalogDeregistration{Node: "shelved"}, nil)
	for _, filter := range []string{
		`ServiceName == jam`,
		`NodeMeta.shelf == top`,
		`NodeMeta["shelf"] == "top" and ServiceMeta.fruit == plum`,
		`Node == shelved and ServicePort == 9100`,
	} {
		services, _, err := catalog.Services(&api.QueryOptions{Filter: filter})
		sameList(slices.Collect(maps.Keys(stage.Must(services, err))), []string{"jam"}, filter)
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
		sameList(ids(stage.Must(entries, err)), wanted, filter)
	}
	_, _, err := health.Service("sieve", "", false, &api.QueryOptions{Filter: "Service.Port === 2"})
	refused(err, 500, "Failed to create boolean expression evaluator")
	tagged := func(tags ...string) []string {
		entries, _, err := health.ServiceMultipleTags("sieve", tags, false, nil)
		return ids(stage.Must(entries, err))
	}
	sameList(tagged("blue"), []string{"sieve-1", "sieve-2"}, "tagged blue, in another case")
	sameList(tagged("Blue", "v2"), []string{"sieve-2"}, "tagged Blue and v2")
	sameList(tagged("v1", "v2"), []string{}, "tagged v1 and v2")
}

func healthViews() {
	defer register(&api.AgentServiceRegistration{
		ID: "view-1", Name: "view", Check: &api.AgentServiceCheck{CheckID: "view-check", TTL: "60s", Notes: "a note"},
	})()
	node := stage.Must(agent.NodeName())
	has := func(checks api.HealthChecks, _ *api.QueryMeta, err error) *api.HealthCheck {
		for _, check := range stage.Must(checks, err) {
			if check.CheckID == "view-check" {
				return check
			}
		}
		return nil
	}
	check := has(health.Checks("view", nil))
	stage.Check(check != nil, "not among the service's")
	same(check.Node, node, "its node")
	same(check.Name, "Service 'view' check", "its name")
	same(check.Notes, "a note", "its notes")
	same(check.ServiceID, "view-1", "its service")
	same(check.Type, "ttl", "its type")
	stage.Check(has(health.Node(node, nil)) != nil, "not among the node's")
	for _, now := range []string{api.HealthCritical, api.HealthWarning, api.HealthPassing} {
		stage.Fine(agent.UpdateTTL("view-check", "", now))
		for _, state := range []string{api.HealthCritical, api.HealthWarning, api.HealthPassing, api.HealthAny} {
			found := has(health.State(state, nil)) != nil
			same(found, state == now || state == api.HealthAny, "whether "+now+" is listed as "+state)
		}
	}
	none, _, err := health.Checks("nothing", nil)
	stage.Check(err == nil && len(none) == 0, "checks of an unknown service: %v, %v", none, err)
}
