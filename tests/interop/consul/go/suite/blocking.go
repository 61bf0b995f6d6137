package main

import (
	"fmt"
	"slices"
	"time"

	"callboard.dev/interop/consul/stage"
	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/consul/api/watch"
)

const long = 20 * time.Second // a wait that is not to be waited for

// waited wants an answer that came with the wait's end: not before, nor later than clients stand, which is a tenth more.
func waited(a answer, wait time.Duration, index uint64) {
	stage.Check(a.took >= wait && a.took < wait+wait/10+100*time.Millisecond, "waited %v instead of %v", a.took, wait)
	stage.Check(a.index <= index, "index %d after %d, with nothing changed", a.index, index)
}

// woken wants an answer well before the wait's end, with a higher index.
func woken(a answer, index uint64, wanted ...string) uint64 {
	stage.Check(a.took < long/2, "answered after %v only", a.took)
	stage.Check(a.index > index, "woken with index %d after %d", a.index, index)
	sameList(a.ids, wanted, "passing when woken")
	return a.index
}

func blocksUntilWait() {
	defer register(&api.AgentServiceRegistration{ID: "still-1", Name: "still"})()
	first := query("still", 0, 0)
	again := query("still", first.index, time.Second)
	waited(again, time.Second, first.index)
	sameList(again.ids, first.ids, "the data after the wait")
	// An index from the future is waited for, and answered with the real one.
	future := query("still", first.index+1_000_000_000, time.Second)
	waited(future, time.Second, first.index)
}

func wokenByChanges() {
	target := stage.NewTarget()
	defer target.Close()
	defer register(&api.AgentServiceRegistration{ID: "busy-1", Name: "busy"})()
	at := query("busy", 0, 0).index
	waiting := func() func() answer {
		return during(func() answer { return query("busy", at, long) })
	}

	answered := waiting()
	defer register(&api.AgentServiceRegistration{ID: "busy-2", Name: "busy", Check: &api.AgentServiceCheck{TTL: "60s"}})()
	at = woken(answered(), at, "busy-1")

	answered = waiting()
	stage.Fine(agent.PassTTL("service:busy-2", ""))
	at = woken(answered(), at, "busy-1", "busy-2")

	answered = waiting()
	check := httpCheckOf(target)
	check.Status = api.HealthPassing
	stage.Fine(agent.CheckRegister(&api.AgentCheckRegistration{ID: "busy-http", Name: "busy-http", ServiceID: "busy-1", AgentServiceCheck: *check}))
	at = woken(answered(), at, "busy-1", "busy-2")

	answered = waiting()
	target.Answer(500)
	at = woken(answered(), at, "busy-2")

	answered = waiting()
	stage.Fine(agent.CheckDeregister("busy-http"))
	at = woken(answered(), at, "busy-1", "busy-2")

	answered = waiting()
	stage.Fine(agent.EnableServiceMaintenance("busy-2", ""))
	at = woken(answered(), at, "busy-1")

	answered = waiting()
	stage.Fine(agent.ServiceDeregister("busy-2"))
	at = woken(answered(), at, "busy-1")

	answered = waiting()
	stage.Fine(agent.ServiceDeregister("busy-1"))
	woken(answered(), at)
}

func notWoken() {
	defer register(&api.AgentServiceRegistration{ID: "calm-1", Name: "calm", Check: &api.AgentServiceCheck{TTL: "60s"}})()
	stage.Fine(agent.PassTTL("service:calm-1", "first"))
	at := query("calm", 0, 0).index
	const wait = 2 * time.Second
	answered := during(func() answer { return query("calm", at, wait) })
	defer register(&api.AgentServiceRegistration{ID: "loud-1", Name: "loud", Check: &api.AgentServiceCheck{TTL: "60s"}})()
	stage.Fine(agent.PassTTL("service:loud-1", ""))
	stage.Fine(agent.ServiceDeregister("loud-1"))
	stage.Fine(agent.PassTTL("service:calm-1", "first"))
	register(&api.AgentServiceRegistration{ID: "calm-1", Name: "calm", Check: &api.AgentServiceCheck{TTL: "60s"}})
	a := answered()
	waited(a, wait, at)
	sameList(a.ids, []string{"calm-1"}, "passing after the wait")
}

func blocksOnAbsent() {
	at := query("later", 0, 0).index
	waited(query("later", at, time.Second), time.Second, at)
	answered := during(func() answer { return query("later", at, long) })
	deregister := register(&api.AgentServiceRegistration{ID: "later-1", Name: "later"})
	at = woken(answered(), at, "later-1")
	// Gone and back while nobody looked: the index tells.
	deregister()
	defer register(&api.AgentServiceRegistration{ID: "later-1", Name: "later"})()
	woken(query("later", at, long), at, "later-1")
}

func blocksOnCatalog() {
	names := func(index uint64, wait time.Duration) answer {
		began := time.Now()
		services, meta, err := client.Catalog().Services(&api.QueryOptions{WaitIndex: index, WaitTime: wait})
		stage.Must(services, err)
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

	answered := during(func() answer { return names(at, long) })
	defer register(&api.AgentServiceRegistration{ID: "page-1", Name: "page", Tags: []string{"a"}})()
	at = woken(answered(), at, "book[]", "page[a]")

	answered = during(func() answer { return names(at, long) })
	defer register(&api.AgentServiceRegistration{ID: "page-2", Name: "page", Tags: []string{"b"}})()
	at = woken(answered(), at, "book[]", "page[a b]")

	// Names and tags are what it is about; health is not.
	answered = during(func() answer { return names(at, time.Second) })
	stage.Fine(agent.PassTTL("service:book-1", ""))
	waited(answered(), time.Second, at)

	// Two steps, of which each may wake it.
	stage.Fine(agent.ServiceDeregister("page-2"))
	at = names(0, 0).index
	answered = during(func() answer { return names(at, long) })
	stage.Fine(agent.ServiceDeregister("page-1"))
	woken(answered(), at, "book[]")
}

func blocksOnStates() {
	critical := func(index uint64) answer {
		began := time.Now()
		checks, meta, err := health.State(api.HealthCritical, &api.QueryOptions{WaitIndex: index, WaitTime: long})
		a := answer{ids: []string{}, took: time.Since(began)}
		for _, check := range stage.Must(checks, err) {
			a.ids = append(a.ids, check.CheckID)
		}
		a.index = meta.LastIndex
		return a
	}
	defer register(&api.AgentServiceRegistration{ID: "moody-1", Name: "moody", Check: &api.AgentServiceCheck{TTL: "60s"}})()
	stage.Fine(agent.PassTTL("service:moody-1", ""))
	at := critical(0).index
	answered := during(func() answer { return critical(at) })
	stage.Fine(agent.FailTTL("service:moody-1", ""))
	woken(answered(), at, "service:moody-1")

	nodes := func(index uint64) answer {
		began := time.Now()
		nodes, meta, err := client.Catalog().Nodes(&api.QueryOptions{
			WaitIndex: index, WaitTime: long, NodeMeta: map[string]string{"shelf": "top"},
		})
		a := answer{ids: []string{}, took: time.Since(began)}
		for _, node := range stage.Must(nodes, err) {
			a.ids = append(a.ids, node.Node)
		}
		a.index = meta.LastIndex
		return a
	}
	at = nodes(0).index
	answered = during(func() answer { return nodes(at) })
	_, err := client.Catalog().Register(&api.CatalogRegistration{
		Node: "shelved", Address: "10.9.8.6", NodeMeta: map[string]string{"shelf": "top"},
	}, nil)
	stage.Fine(err)
	woken(answered(), at, "shelved")
	_, err = client.Catalog().Deregister(&api.CatalogDeregistration{Node: "shelved"}, nil)
	stage.Fine(err)
}

func blocksOnHash() {
	service := &api.AgentServiceRegistration{ID: "hashed-1", Name: "hashed", Port: 1}
	defer register(service)()
	one, meta, err := agent.Service("hashed-1", nil)
	stage.Must(one, err)
	stage.Check(meta.LastContentHash != "" && meta.LastContentHash == one.ContentHash, "hashes %q, %q", meta.LastContentHash, one.ContentHash)
	ask := func(hash string, wait time.Duration) (*api.AgentService, time.Duration) {
		began := time.Now()
		is, _, err := agent.Service("hashed-1", &api.QueryOptions{WaitHash: hash, WaitTime: wait})
		return stage.Must(is, err), time.Since(began)
	}
	is, took := ask(one.ContentHash, time.Second)
	stage.Check(took >= time.Second && is.ContentHash == one.ContentHash, "unchanged: answered after %v with %q", took, is.ContentHash)
	answered := during(func() *api.AgentService { is, _ := ask(one.ContentHash, long); return is })
	service.Port = 2
	register(service)
	is = answered()
	same(is.Port, 2, "the port when woken")
	stage.Check(is.ContentHash != one.ContentHash, "another service, the same hash")
}

func watchPlans() {
	heard := make(chan []string, 100)
	plan := stage.Must(watch.Parse(map[string]any{"type": "service", "service": "watched", "passingonly": true}))
	plan.Handler = func(_ uint64, data any) { heard <- ids(data.([]*api.ServiceEntry)) }
	ended := make(chan error, 1)
	go func() { ended <- plan.RunWithClientAndHclog(client, nil) }()
	hears := func(wanted ...string) {
		deadline := time.After(stage.Patience)
		for {
			select {
			case is := <-heard:
				if slices.Equal(is, wanted) {
					return
				}
			case err := <-ended:
				stage.Check(false, "the plan ended: %v", err)
			case <-deadline:
				stage.Check(false, "never heard of %v", wanted)
			}
		}
	}
	hears()
	deregister := register(&api.AgentServiceRegistration{ID: "watched-1", Name: "watched"})
	hears("watched-1")
	deregister()
	hears()
	plan.Stop()
	select {
	case err := <-ended:
		stage.Fine(err)
	case <-time.After(stage.Patience):
		stage.Check(false, "the plan did not end")
	}
}

func keyValue() {
	pair, _, err := client.KV().Get("anything", nil)
	stage.Check(pair == nil, "a pair: %v", pair)
	refused(err, 501, "")
}

// Clients hang in their blocking queries nearly always; that must not keep the server from ending.
func shutsDown() {
	defer register(&api.AgentServiceRegistration{ID: "last-1", Name: "last"})()
	at := query("last", 0, 0).index
	answered := during(func() error {
		_, _, err := health.Service("last", "", true, &api.QueryOptions{WaitIndex: at, WaitTime: 30 * time.Second})
		return err
	})
	server.Terminate()
	answered()
}
