// Tests a real callboard server with the package that implements Prometheus' consul_sd_configs, configured in YAML as users
// do. (Debian's Prometheus is built without the package.)
package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"callboard.dev/interop/consul/harness"
	"github.com/hashicorp/consul/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/consul"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"go.yaml.in/yaml/v2"
)

// collector runs a service discovery, and has the targets that Prometheus would scrape: the last group of each source.
type collector struct {
	lock    sync.Mutex
	groups  map[string]*targetgroup.Group
	updates int
	stop    func()
	stopped chan struct{}
	metrics *prometheus.Registry
}

func discover(config string, values ...any) *collector {
	var parsed consul.SDConfig
	harness.NoError(yaml.Unmarshal(fmt.Appendf(nil, config, values...), &parsed))
	s := &collector{groups: map[string]*targetgroup.Group{}, stopped: make(chan struct{}), metrics: prometheus.NewRegistry()}
	metrics := parsed.NewDiscovererMetrics(s.metrics, discovery.NewRefreshMetrics(s.metrics))
	harness.NoError(metrics.Register())
	discoverer := harness.Must(parsed.NewDiscoverer(discovery.DiscovererOptions{Metrics: metrics}))
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	updates := make(chan []*targetgroup.Group)
	go func() {
		discoverer.Run(ctx, updates)
		close(s.stopped)
	}()
	go func() {
		for {
			select {
			case groups := <-updates:
				s.lock.Lock()
				s.updates++
				for _, group := range groups {
					s.groups[group.Source] = group
				}
				s.lock.Unlock()
			case <-ctx.Done():
				return
			}
		}
	}()
	return s
}

// quiet returns true if no update arrives within this time.
func (s *collector) quiet(within time.Duration) bool {
	s.lock.Lock()
	before := s.updates
	s.lock.Unlock()
	<-time.After(within)
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.updates == before
}

// targets returns the addresses with their health, as "127.0.0.1:80 passing".
func (s *collector) targets() []string {
	s.lock.Lock()
	defer s.lock.Unlock()
	targets := []string{}
	for _, group := range s.groups {
		for _, target := range group.Targets {
			if label(target, "service_id") != "consul" { // the registration of the server itself
				targets = append(targets, string(target[model.AddressLabel])+" "+label(target, "health"))
			}
		}
	}
	slices.Sort(targets)
	return targets
}

func label(labels model.LabelSet, name string) string {
	return string(labels[model.LabelName("__meta_consul_"+name)])
}

func (s *collector) eventually(wanted ...string) {
	slices.Sort(wanted)
	harness.Eventually(harness.EventTimeout, fmt.Sprintf("targets %q", wanted), func() (bool, any) {
		got := s.targets()
		return slices.Equal(got, wanted), got
	})
}

// failures returns the number of failed calls, for which Prometheus' users have alerts.
func (s *collector) failures() float64 {
	for _, family := range harness.Must(s.metrics.Gather()) {
		if family.GetName() == "prometheus_sd_consul_rpc_failures_total" {
			return family.Metric[0].Counter.GetValue()
		}
	}
	panic("the metric prometheus_sd_consul_rpc_failures_total does not exist")
}

func main() {
	server := harness.Start()
	client := harness.Must(api.NewClient(&api.Config{Address: server.HTTP}))
	agent := client.Agent()
	target := harness.NewTarget()
	node := harness.Must(agent.NodeName())
	nodes, _, err := client.Catalog().Node(node, nil)
	nodeAddress := harness.Must(nodes, err).Node.Address
	var everything, some *collector

	harness.RunSteps(server, []harness.Step{
		{Name: "discovers no targets at first", Run: func() {
			everything = discover("server: %q\nrefresh_interval: 100ms", server.HTTP)
			everything.eventually()
		}},
		{Name: "discovers a registered instance with all labels", Run: func() {
			harness.NoError(agent.ServiceRegister(&api.AgentServiceRegistration{
				ID: "api-1", Name: "api", Address: "127.0.0.1", Port: target.Port, Tags: []string{"prod", "v1"},
				Meta:  map[string]string{"metrics-path": "/stats"},
				Check: &api.AgentServiceCheck{HTTP: target.URL(), Interval: "1s", Timeout: "1s"},
			}))
			everything.eventually(fmt.Sprintf("127.0.0.1:%d passing", target.Port))
			everything.lock.Lock()
			defer everything.lock.Unlock()
			group := everything.groups["api"]
			harness.Check(label(group.Labels, "service") == "api" && label(group.Labels, "dc") != "", "labels of the group: %v", group.Labels)
			labels := group.Targets[0]
			for name, wanted := range map[string]string{
				"node": node, "tags": ",prod,v1,", "service_id": "api-1", "service_address": "127.0.0.1",
				"service_port": fmt.Sprint(target.Port), "service_metadata_metrics_path": "/stats",
			} {
				harness.Check(label(labels, name) == wanted, "label %s is %q, not %q", name, label(labels, name), wanted)
			}
			harness.Check(label(labels, "tagged_address_lan") != "", "no tagged address of the node in %v", slices.Sorted(maps.Keys(labels)))
		}},
		{Name: "uses the address of the node for an instance without one", Run: func() {
			harness.NoError(agent.ServiceRegister(&api.AgentServiceRegistration{ID: "api-2", Name: "api", Port: 9002, Tags: []string{"test"}}))
			everything.eventually(fmt.Sprintf("127.0.0.1:%d passing", target.Port), nodeAddress+":9002 passing")
		}},
		{Name: "selects targets by service, tags and a health filter", Run: func() {
			some = discover("server: %q\nrefresh_interval: 100ms\nservices: [api]\ntags: [prod]\nhealth_filter: Service.Meta[\"metrics-path\"] == \"/stats\"", server.HTTP)
			some.eventually(fmt.Sprintf("127.0.0.1:%d passing", target.Port))
		}},
		{Name: "selects targets by a catalog filter", Run: func() {
			_, err := client.Catalog().Register(&api.CatalogRegistration{
				Node: "outside", Address: "10.9.8.7", NodeMeta: map[string]string{"rack": "r1"},
				Service: &api.AgentService{Service: "exporter", Port: 9100, Weights: api.AgentWeights{Passing: 1, Warning: 1}},
			}, nil)
			harness.NoError(err)
			defer client.Catalog().Deregister(&api.CatalogDeregistration{Node: "outside"}, nil)
			racked := discover("server: %q\nrefresh_interval: 100ms\nfilter: NodeMeta.rack == r1", server.HTTP)
			defer racked.stop()
			racked.eventually("10.9.8.7:9100 passing")
		}},
		{Name: "updates the health label after each change of a check", Run: func() {
			target.SetStatus(429)
			some.eventually(fmt.Sprintf("127.0.0.1:%d warning", target.Port))
			target.SetStatus(500)
			some.eventually(fmt.Sprintf("127.0.0.1:%d critical", target.Port))
			harness.Check(strings.Contains(fmt.Sprint(everything.targets()), "critical"), "no target is critical: %v", everything.targets())
			target.SetStatus(200)
			some.eventually(fmt.Sprintf("127.0.0.1:%d passing", target.Port))
			harness.NoError(agent.EnableServiceMaintenance("api-1", ""))
			some.eventually(fmt.Sprintf("127.0.0.1:%d maintenance", target.Port))
			harness.NoError(agent.DisableServiceMaintenance("api-1"))
			some.eventually(fmt.Sprintf("127.0.0.1:%d passing", target.Port))
		}},
		{Name: "receives no update without a change", Run: func() {
			// Waits until this discovery, too, has the last change of the step before.
			everything.eventually(fmt.Sprintf("127.0.0.1:%d passing", target.Port), nodeAddress+":9002 passing")
			harness.Check(everything.quiet(time.Second), "an update in a second without changes")
		}},
		{Name: "removes targets after the deregistration of their instances", Run: func() {
			harness.NoError(agent.ServiceDeregister("api-1"))
			some.eventually()
			harness.NoError(agent.ServiceDeregister("api-2"))
			everything.eventually()
		}},
		{Name: "stops without a failed call", Run: func() {
			for _, s := range []*collector{everything, some} {
				harness.Check(s.failures() == 0, "%v calls failed", s.failures())
				s.stop()
				select {
				case <-s.stopped:
				case <-time.After(harness.EventTimeout):
					harness.Check(false, "a discovery did not stop")
				}
			}
		}},
		{Name: "the server exits with code 0", Run: server.Terminate},
	})
}
