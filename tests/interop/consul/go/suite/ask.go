package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"callboard.dev/interop/consul/stage"
	"github.com/hashicorp/consul/api"
)

// register is for registrations that have to succeed; the returned function takes the service away again.
func register(service *api.AgentServiceRegistration) (deregister func()) {
	stage.Fine(agent.ServiceRegister(service))
	id := service.ID
	if id == "" {
		id = service.Name
	}
	return func() { agent.ServiceDeregister(id) }
}

func httpCheckOf(target *stage.Target) *api.AgentServiceCheck {
	return &api.AgentServiceCheck{HTTP: target.URL(), Interval: "1s", Timeout: "1s"}
}

func ids(entries []*api.ServiceEntry) []string {
	ids := []string{}
	for _, entry := range entries {
		ids = append(ids, entry.Service.ID)
	}
	slices.Sort(ids)
	return ids
}

func passing(service string) []string {
	entries, _, err := health.Service(service, "", true, nil)
	return ids(stage.Must(entries, err))
}

// The sets of ids that are passing and that are registered at all.
func all(service string) []string {
	entries, _, err := health.Service(service, "", false, nil)
	return ids(stage.Must(entries, err))
}

func eventuallyPassing(service string, wanted ...string) {
	stage.Eventually(stage.Patience, fmt.Sprintf("%s passing: %v", service, wanted), func() (bool, any) {
		is := passing(service)
		return slices.Equal(is, wanted), is
	})
}

func same[T comparable](is, wanted T, what string) {
	stage.Check(is == wanted, "%s: %v, not %v", what, is, wanted)
}

func sameList[T comparable](is, wanted []T, what string) {
	stage.Check(slices.Equal(is, wanted), "%s: %v, not %v", what, is, wanted)
}

// refused wants a status and a part of what the body says.
func refused(err error, code int, text string) {
	var status api.StatusError
	stage.Check(errors.As(err, &status), "%v is no refusal", err)
	same(status.Code, code, "status of "+status.Body)
	stage.Check(strings.Contains(status.Body, text), "%q is not in %q", text, status.Body)
}

// statusOf is a check's, as the catalog has it.
func statusOf(service, check string) string {
	checks, _, err := health.Checks(service, nil)
	for _, c := range stage.Must(checks, err) {
		if c.CheckID == check {
			return c.Status
		}
	}
	return "(no check " + check + ")"
}

func eventuallyStatus(service, check, wanted string) {
	stage.Eventually(stage.Patience, check+" is "+wanted, func() (bool, any) {
		is := statusOf(service, check)
		return is == wanted, is
	})
}

// answer of a blocking query.
type answer struct {
	ids   []string
	index uint64
	took  time.Duration
}

// query asks for the passing instances of a service, and where an index is given waits for a higher one.
func query(service string, index uint64, wait time.Duration) answer {
	began := time.Now()
	entries, meta, err := health.Service(service, "", true, &api.QueryOptions{WaitIndex: index, WaitTime: wait})
	stage.Must(entries, err)
	stage.Check(meta.LastIndex > 0, "index 0 for %s", service)
	stage.Check(meta.KnownLeader && meta.LastContact == 0, "no known leader, or last contact %v", meta.LastContact)
	return answer{ids(entries), meta.LastIndex, time.Since(began)}
}

// during asks in the background. What the caller does meanwhile is done once the query hangs.
func during[T any](ask func() T) (answered func() T) {
	type outcome struct {
		value T
		panic any
	}
	result := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			o.panic = recover()
			result <- o
		}()
		o.value = ask()
	}()
	// Nothing tells that a query has arrived; one that were answered at once would be caught by this, too.
	select {
	case o := <-result:
		if o.panic != nil {
			panic(o.panic)
		}
		stage.Check(false, "answered at once, with nothing changed: %+v", o.value)
	case <-time.After(200 * time.Millisecond):
	}
	return func() T {
		select {
		case o := <-result:
			if o.panic != nil {
				panic(o.panic)
			}
			return o.value
		case <-time.After(30 * time.Second):
			stage.Check(false, "a blocking query was never answered")
			panic("unreachable")
		}
	}
}
