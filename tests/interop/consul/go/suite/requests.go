package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"callboard.dev/interop/consul/harness"
	"github.com/hashicorp/consul/api"
)

// register registers a service, which has to succeed. The returned function deregisters it.
func register(service *api.AgentServiceRegistration) (deregister func()) {
	harness.NoError(agent.ServiceRegister(service))
	id := service.ID
	if id == "" {
		id = service.Name
	}
	return func() { agent.ServiceDeregister(id) }
}

func httpCheckOf(target *harness.Target) *api.AgentServiceCheck {
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

// passing returns the ids of the passing instances of a service.
func passing(service string) []string {
	entries, _, err := health.Service(service, "", true, nil)
	return ids(harness.Must(entries, err))
}

// registered returns the ids of all instances of a service.
func registered(service string) []string {
	entries, _, err := health.Service(service, "", false, nil)
	return ids(harness.Must(entries, err))
}

func eventuallyPassing(service string, wanted ...string) {
	harness.Eventually(harness.EventTimeout, fmt.Sprintf("%s passing: %v", service, wanted), func() (bool, any) {
		got := passing(service)
		return slices.Equal(got, wanted), got
	})
}

func same[T comparable](got, wanted T, what string) {
	harness.Check(got == wanted, "%s: %v, not %v", what, got, wanted)
}

func sameList[T comparable](got, wanted []T, what string) {
	harness.Check(slices.Equal(got, wanted), "%s: %v, not %v", what, got, wanted)
}

// expectError checks the status code of an error, and a part of its body.
func expectError(err error, code int, text string) {
	var status api.StatusError
	harness.Check(errors.As(err, &status), "%v is not an HTTP error", err)
	same(status.Code, code, "status of "+status.Body)
	harness.Check(strings.Contains(status.Body, text), "%q is not in %q", text, status.Body)
}

// statusOf returns the status of a check by the health endpoint.
func statusOf(service, check string) string {
	checks, _, err := health.Checks(service, nil)
	for _, c := range harness.Must(checks, err) {
		if c.CheckID == check {
			return c.Status
		}
	}
	return "(no check " + check + ")"
}

func eventuallyStatus(service, check, wanted string) {
	harness.Eventually(harness.EventTimeout, check+" is "+wanted, func() (bool, any) {
		got := statusOf(service, check)
		return got == wanted, got
	})
}

// answer is the result of a blocking query.
type answer struct {
	ids   []string
	index uint64
	took  time.Duration
}

// query returns the passing instances of a service. With an index, it is a blocking query that waits for a higher one.
func query(service string, index uint64, wait time.Duration) answer {
	began := time.Now()
	entries, meta, err := health.Service(service, "", true, &api.QueryOptions{WaitIndex: index, WaitTime: wait})
	harness.Must(entries, err)
	harness.Check(meta.LastIndex > 0, "index 0 for %s", service)
	harness.Check(meta.KnownLeader && meta.LastContact == 0, "no known leader, or last contact %v", meta.LastContact)
	return answer{ids(entries), meta.LastIndex, time.Since(began)}
}

// inBackground runs a blocking query in the background, and returns once the query is waiting. The returned function returns
// its result.
func inBackground[T any](ask func() T) (answered func() T) {
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
	// Nothing shows that the server waits with its response. After 200 ms without a response, it most likely does.
	select {
	case o := <-result:
		if o.panic != nil {
			panic(o.panic)
		}
		harness.Check(false, "answered immediately, without a change: %+v", o.value)
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
			harness.Check(false, "a blocking query was not answered within 30 s")
			panic("unreachable")
		}
	}
}
