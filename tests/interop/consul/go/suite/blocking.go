package main

import (
	"fmt"
	"slices"
	"time"

	"callboard.dev/interop/consul/harness"
	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/consul/api/watch"
)

const longWait = 20 * time.Second // a wait that changes have to end early

// expectTimeout checks that the query was answered at the end of its wait: not before it, and at most a tenth of the wait
// later, which clients accept.
func expectTimeout(a answer, wait time.Duration, index uint64) {
	harness.Check(a.took >= wait && a.took < wait+wait/10+100*time.Millisecond, "waited %v instead of %v", a.took, wait)
	harness.Check(a.index <= index, "index %d after %d, without a change", a.index, index)
}

// expectChange checks that the query was answered before the end of its wait, with a higher index and these ids.
func expectChange(a answer, index uint64, wanted ...string) uint64 {
	harness.Check(a.took < longWait/2, "answered only after %v", a.took)
	harness.Check(a.index > index, "answered with index %d after %d", a.index, index)
	sameList(a.ids, wanted, "ids in the response")
	return a.index
}

func blocksUntilWait() {
	defer register(&api.AgentServiceRegistration{ID: "still-1", Name: "still"})()
	first := query("still", 0, 0)
	again := query("still", first.index, time.Second)
	expectTimeout(again, time.Second, first.index)
	sameList(again.ids, first.ids, "ids after the wait")
	// A query with an index that is too high waits as well, and returns the current index.
	future := query("still", first.index+1_000_000_000, time.Second)
	expectTimeout(future, time.Second, first.index)
}

func returnsAfterChange() {
	target := harness.NewTarget()
	defer target.Close()
	defer register(&api.AgentServiceRegistration{ID: "busy-1", Name: "busy"})()
	at := query("busy", 0, 0).index
	waiting := func() func() answer {
		return inBackground(func() answer { return query("busy", at, longWait) })
	}

	answered := waiting()
	defer register(&api.AgentServiceRegistration{ID: "busy-2", Name: "busy", Check: &api.AgentServiceCheck{TTL: "60s"}})()
	at = expectChange(answered(), at, "busy-1")

	answered = waiting()
	harness.NoError(agent.PassTTL("service:busy-2", ""))
	at = expectChange(answered(), at, "busy-1", "busy-2")

	answered = waiting()
	check := httpCheckOf(target)
	check.Status = api.HealthPassing
	harness.NoError(agent.CheckRegister(&api.AgentCheckRegistration{ID: "busy-http", Name: "busy-http", ServiceID: "busy-1", AgentServiceCheck: *check}))
	at = expectChange(answered(), at, "busy-1", "busy-2")

	answered = waiting()
	target.SetStatus(500)
	at = expectChange(answered(), at, "busy-2")

	answered = waiting()
	harness.NoError(agent.CheckDeregister("busy-http"))
	at = expectChange(answered(), at, "busy-1", "busy-2")

	answered = waiting()
	harness.NoError(agent.EnableServiceMaintenance("busy-2", ""))
	at = expectChange(answered(), at, "busy-1")

	answered = waiting()
	harness.NoError(agent.ServiceDeregister("busy-2"))
	at = expectChange(answered(), at, "busy-1")

	answered = waiting()
	harness.NoError(agent.ServiceDeregister("busy-1"))
	expectChange(answered(), at)
}

func ignoresOtherChanges() {
	defer register(&api.AgentServiceRegistration{ID: "calm-1", Name: "calm", Check: &api.AgentServiceCheck{TTL: "60s"}})()
	harness.NoError(agent.PassTTL("service:calm-1", "first"))
	at := query("calm", 0, 0).index
	const wait = 2 * time.Second
	answered := inBackground(func() answer { return query("calm", at, wait) })
	defer register(&api.AgentServiceRegistration{ID: "loud-1", Name: "loud", Check: &api.AgentServiceCheck{TTL: "60s"}})()
	harness.NoError(agent.PassTTL("service:loud-1", ""))
	harness.NoError(agent.ServiceDeregister("loud-1"))
	harness.NoError(agent.PassTTL("service:calm-1", "first"))
	register(&api.AgentServiceRegistration{ID: "calm-1", Name: "calm", Check: &api.AgentServiceCheck{TTL: "60s"}})
	a := answered()
	expectTimeout(a, wait, at)
	sameList(a.ids, []string{"calm-1"}, "passing after the wait")
}

func blocksOnUnknownService() {
	at := query("later", 0, 0).index
	expectTimeout(query("later", at, time.Second), time.Second, at)
	answered := inBackground(func() answer { return query("later", at, longWait) })
	deregister := register(&api.AgentServiceRegistration{ID: "later-1", Name: "later"})
	at = expectChange(answered(), at, "later-1")
	// The service was removed and registered again while no query was open. The next query returns immediately.
	deregister()
	defer register(&api.AgentServiceRegistration{ID: "later-1", Name: "later"})()
	expectChange(query("later", at, longWait), at, "later-1")
}

func blocksOnCatalog() {
	names := func(index uint64, wait time.Duration) answer {
		began := time.Now()
		services, meta, err := client.Catalog().Services(&api.QueryOptions{WaitIndex: index, WaitTime: wait})
		harness.Must(services, err)
		a := answer{ids: []string{}, index: meta.LastIndex, took: time.Since(began)}
		for name, tags := range services {
			if slices.Contains([]string{"book", "page"}, name) {
				slices.Sort(tags)
				a.ids = append(a.ids, fmt.Sprint(name, tags))
			}
		}
		slices.Sort(a.ids)
		return a
	}
	defer register(&api.AgentServiceRegistration{ID: "book-1", Name: "book", Check: &api.AgentServiceCheck{TTL: "60s"}})()
	at := names(0, 0).index

	answered := inBackground(func() answer { return names(at, longWait) })
	defer register(&api.AgentServiceRegistration{ID: "page-1", Name: "page", Tags: []string{"a"}})()
	at = expectChange(answered(), at, "book[]", "page[a]")

	answered = inBackground(func() answer { return names(at, longWait) })
	defer register(&api.AgentServiceRegistration{ID: "page-2", Name: "page", Tags: []string{"b"}})()
	at = expectChange(answered(), at, "book[]", "page[a b]")

	// A change of health is no change of names and tags.
	answered = inBackground(func() answer { return names(at, time.Second) })
	harness.NoError(agent.PassTTL("service:book-1", ""))
	expectTimeout(answered(), time.Second, at)

	// Each of the two deregistrations would end a query, so the index is read again after the first.
	harness.NoError(agent.ServiceDeregister("page-2"))
	at = names(0, 0).index
	answered = inBackground(func() answer { return names(at, longWait) })
	harness.NoError(agent.ServiceDeregister("page-1"))
	expectChange(answered(), at, "book[]")
}

func blocksOnStates() {
	critical := func(index uint64) answer {
		began := time.Now()
		checks, meta, err := health.State(api.HealthCritical, &api.QueryOptions{WaitIndex: index, WaitTime: longWait})
		a := answer{ids: []string{}, took: time.Since(began)}
		for _, check := range harness.Must(checks, err) {
			a.ids = append(a.ids, check.CheckID)
		}
		a.index = meta.LastIndex
		return a
	}
	defer register(&api.AgentServiceRegistration{ID: "moody-1", Name: "moody", Check: &api.AgentServiceCheck{TTL: "60s"}})()
	harness.NoError(agent.PassTTL("service:moody-1", ""))
	at := critical(0).index
	answered := inBackground(func() answer { return critical(at) })
	harness.NoError(agent.FailTTL("service:moody-1", ""))
	expectChange(answered(), at, "service:moody-1")

	nodes := func(index uint64) answer {
		began := time.Now()
		nodes, meta, err := client.Catalog().Nodes(&api.QueryOptions{
			WaitIndex: index, WaitTime: longWait, NodeMeta: map[string]string{"shelf": "top"},
		})
		a := answer{ids: []string{}, took: time.Since(began)}
		for _, node := range harness.Must(nodes, err) {
			a.ids = append(a.ids, node.Node)
		}
		a.index = meta.LastIndex
		return a
	}
	at = nodes(0).index
	answered = inBackground(func() answer { return nodes(at) })
	_, err := client.Catalog().Register(&api.CatalogRegistration{
		Node: "shelved", Address: "10.9.8.6", NodeMeta: map[string]string{"shelf": "top"},
	}, nil)
	harness.NoError(err)
	expectChange(answered(), at, "shelved")
	_, err = client.Catalog().Deregister(&api.CatalogDeregistration{Node: "shelved"}, nil)
	harness.NoError(err)
}

func blocksOnHash() {
	service := &api.AgentServiceRegistration{ID: "hashed-1", Name: "hashed", Port: 1}
	defer register(service)()
	one, meta, err := agent.Service("hashed-1", nil)
	harness.Must(one, err)
	harness.Check(meta.LastContentHash != "" && meta.LastContentHash == one.ContentHash, "hashes %q, %q", meta.LastContentHash, one.ContentHash)
	ask := func(hash string, wait time.Duration) (*api.AgentService, time.Duration) {
		began := time.Now()
		got, _, err := agent.Service("hashed-1", &api.QueryOptions{WaitHash: hash, WaitTime: wait})
		return harness.Must(got, err), time.Since(began)
	}
	got, took := ask(one.ContentHash, time.Second)
	harness.Check(took >= time.Second && got.ContentHash == one.ContentHash, "without a change: answered after %v with hash %q", took, got.ContentHash)
	answered := inBackground(func() *api.AgentService { got, _ := ask(one.ContentHash, longWait); return got })
	service.Port = 2
	register(service)
	got = answered()
	same(got.Port, 2, "the port after the change")
	harness.Check(got.ContentHash != one.ContentHash, "the hash did not change with the service")
}

func watchPlans() {
	received := make(chan []string, 100)
	plan := harness.Must(watch.Parse(map[string]any{"type": "service", "service": "watched", "passingonly": true}))
	plan.Handler = func(_ uint64, data any) { received <- ids(data.([]*api.ServiceEntry)) }
	ended := make(chan error, 1)
	go func() { ended <- plan.RunWithClientAndHclog(client, nil) }()
	expectIDs := func(wanted ...string) {
		deadline := time.After(harness.EventTimeout)
		for {
			select {
			case got := <-received:
				if slices.Equal(got, wanted) {
					return
				}
			case err := <-ended:
				harness.Check(false, "the plan ended: %v", err)
			case <-deadline:
				harness.Check(false, "the plan did not return %v", wanted)
			}
		}
	}
	expectIDs()
	deregister := register(&api.AgentServiceRegistration{ID: "watched-1", Name: "watched"})
	expectIDs("watched-1")
	deregister()
	expectIDs()
	plan.Stop()
	select {
	case err := <-ended:
		harness.NoError(err)
	case <-time.After(harness.EventTimeout):
		harness.Check(false, "the plan did not end")
	}
}

func keyValue() {
	pair, _, err := client.KV().Get("anything", nil)
	harness.Check(pair == nil, "unexpected pair: %v", pair)
	expectError(err, 501, "")
}

// A client has a blocking query open at nearly all times. It must not delay the exit of the server.
func shutsDown() {
	defer register(&api.AgentServiceRegistration{ID: "last-1", Name: "last"})()
	at := query("last", 0, 0).index
	answered := inBackground(func() error {
		_, _, err := health.Service("last", "", true, &api.QueryOptions{WaitIndex: at, WaitTime: 30 * time.Second})
		return err
	})
	server.Terminate()
	answered()
}
