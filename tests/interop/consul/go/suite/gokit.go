package main

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"callboard.dev/interop/consul/harness"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/consul"
	"github.com/go-kit/log"
	"github.com/hashicorp/consul/api"
)

// countingClient counts queries, which shows whether they block: go-kit sets no wait itself.
type countingClient struct {
	consul.Client
	queries atomic.Int32
}

func (c *countingClient) Service(service, tag string, passingOnly bool, options *api.QueryOptions) ([]*api.ServiceEntry, *api.QueryMeta, error) {
	c.queries.Add(1)
	return c.Client.Service(service, tag, passingOnly, options)
}

func goKit() {
	kit := &countingClient{Client: consul.NewClient(client)}
	one, two := harness.NewTarget(), harness.NewTarget()
	defer one.Close()
	defer two.Close()
	registrar := func(id string, target *harness.Target, tags ...string) *consul.Registrar {
		return consul.NewRegistrar(kit, &api.AgentServiceRegistration{
			ID: id, Name: "kit", Tags: tags, Address: "127.0.0.1", Port: target.Port, Check: httpCheckOf(target),
		}, log.NewNopLogger())
	}
	instancer := consul.NewInstancer(kit, log.NewNopLogger(), "kit", []string{"http", "v2"}, true)
	defer instancer.Stop()
	events := make(chan sd.Event, 100)
	instancer.Register(events)
	defer instancer.Deregister(events)
	expectInstances := func(targets ...*harness.Target) {
		wanted := []string{}
		for _, target := range targets {
			wanted = append(wanted, fmt.Sprintf("127.0.0.1:%d", target.Port))
		}
		slices.Sort(wanted)
		deadline := time.After(harness.EventTimeout)
		for {
			select {
			case event := <-events:
				harness.NoError(event.Err)
				slices.Sort(event.Instances)
				if slices.Equal(event.Instances, wanted) {
					return
				}
			case <-deadline:
				harness.Check(false, "the instancer did not return %v", wanted)
			}
		}
	}
	expectInstances()
	a, b := registrar("kit-1", one, "http", "v2"), registrar("kit-2", two, "v2", "http")
	a.Register()
	defer a.Deregister()
	expectInstances(one)
	b.Register()
	defer b.Deregister()
	expectInstances(one, two)
	registrar("kit-3", two, "http").Register() // without the second tag
	defer agent.ServiceDeregister("kit-3")
	two.SetStatus(500)
	expectInstances(one)
	two.SetStatus(200)
	expectInstances(one, two)
	b.Deregister()
	expectInstances(one)
	before := kit.queries.Load()
	select {
	case event := <-events:
		harness.Check(false, "received %v without a change", event)
	case <-time.After(time.Second):
	}
	queries := kit.queries.Load() - before
	harness.Check(queries <= 2, "%d queries in a second without changes", queries)
}
