package main

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"callboard.dev/interop/consul/stage"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/consul"
	"github.com/go-kit/log"
	"github.com/hashicorp/consul/api"
)

// counting tells a client that hangs in its queries from one that spins: go-kit gives no wait of its own.
type counting struct {
	consul.Client
	queries atomic.Int32
}

func (c *counting) Service(service, tag string, passingOnly bool, options *api.QueryOptions) ([]*api.ServiceEntry, *api.QueryMeta, error) {
	c.queries.Add(1)
	return c.Client.Service(service, tag, passingOnly, options)
}

func goKit() {
	kit := &counting{Client: consul.NewClient(client)}
	one, two := stage.NewTarget(), stage.NewTarget()
	defer one.Close()
	defer two.Close()
	registrar := func(id string, target *stage.Target, tags ...string) *consul.Registrar {
		return consul.NewRegistrar(kit, &api.AgentServiceRegistration{
			ID: id, Name: "kit", Tags: tags, Address: "127.0.0.1", Port: target.Port, Check: httpCheckOf(target),
		}, log.NewNopLogger())
	}
	instancer := consul.NewInstancer(kit, log.NewNopLogger(), "kit", []string{"http", "v2"}, true)
	defer instancer.Stop()
	events := make(chan sd.Event, 100)
	instancer.Register(events)
	defer instancer.Deregister(events)
	hears := func(targets ...*stage.Target) {
		wanted := []string{}
		for _, target := range targets {
			wanted = append(wanted, fmt.Sprintf("127.0.0.1:%d", target.Port))
		}
		slices.Sort(wanted)
		deadline := time.After(stage.Patience)
		for {
			select {
			case event := <-events:
				stage.Fine(event.Err)
				slices.Sort(event.Instances)
				if slices.Equal(event.Instances, wanted) {
					return
				}
			case <-deadline:
				stage.Check(false, "never heard of %v", wanted)
			}
		}
	}
	hears()
	a, b := registrar("kit-1", one, "http", "v2"), registrar("kit-2", two, "v2", "http")
	a.Register()
	defer a.Deregister()
	hears(one)
	b.Register()
	defer b.Deregister()
	hears(one, two)
	registrar("kit-3", two, "http").Register() // without the second tag
	defer agent.ServiceDeregister("kit-3")
	two.Answer(500)
	hears(one)
	two.Answer(200)
	hears(one, two)
	b.Deregister()
	hears(one)
	before := kit.queries.Load()
	select {
	case event := <-events:
		stage.Check(false, "heard %v, with nothing changed", event)
	case <-time.After(time.Second):
	}
	asked := kit.queries.Load() - before
	stage.Check(asked <= 2, "%d queries in a quiet second", asked)
}
