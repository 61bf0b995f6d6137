package main

import (
	"strings"
	"time"

	"callboard.dev/interop/consul/harness"
	"github.com/hashicorp/consul/api"
)

func ttlStates() {
	defer register(&api.AgentServiceRegistration{
		ID: "ttl-1", Name: "ttl", Check: &api.AgentServiceCheck{TTL: "60s"},
	})()
	const check = "service:ttl-1"
	sameList(passing("ttl"), []string{}, "passing before the first report")
	same(statusOf("ttl", check), api.HealthCritical, "the status before the first report")
	for _, now := range []struct {
		status string
		report func() error
	}{
		{api.HealthPassing, func() error { return agent.PassTTL(check, "passing") }},
		{api.HealthWarning, func() error { return agent.WarnTTL(check, "warning") }},
		{api.HealthCritical, func() error { return agent.FailTTL(check, "critical") }},
		{api.HealthWarning, func() error { return agent.UpdateTTL(check, "warning", "warn") }},
		{api.HealthPassing, func() error { return agent.UpdateTTL(check, "passing", api.HealthPassing) }},
	} {
		harness.NoError(now.report())
		same(statusOf("ttl", check), now.status, "the reported status")
		aggregated("ttl-1", now.status, now.status)
		same(harness.Must(agent.Checks())[check].Output, now.status, "the output")
		same(len(passing("ttl")) == 1, now.status == api.HealthPassing, "the service is listed as passing")
	}
}

func ttlExpires() {
	defer register(&api.AgentServiceRegistration{
		ID: "brief-1", Name: "brief", Check: &api.AgentServiceCheck{TTL: "1s"},
	})()
	const check = "service:brief-1"
	reported := time.Now()
	harness.NoError(agent.PassTTL(check, "last report"))
	sameList(passing("brief"), []string{"brief-1"}, "passing")
	eventuallyPassing("brief")
	took := time.Since(reported)
	harness.Check(took > 950*time.Millisecond && took < 2*time.Second, "expired after %v, not after one second", took)
	output := harness.Must(agent.Checks())[check].Output
	harness.Check(strings.HasPrefix(output, "TTL expired") && strings.Contains(output, "last report"), "output %q", output)
	harness.NoError(agent.PassTTL(check, ""))
	sameList(passing("brief"), []string{"brief-1"}, "passing again")
}
