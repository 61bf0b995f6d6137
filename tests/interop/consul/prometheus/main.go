// Prometheus' own consul_sd_configs, the package that the server runs, configured by the YAML that users write. (Debian's
// Prometheus is built without it.)
package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"callboard.dev/interop/consul/stage"
	"github.com/hashicorp/consul/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/consul"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"go.yaml.in/yaml/v2"
)

// scraper holds what Prometheus would scrape: the last group of each source.
type scraper struct {
	lock    sync.Mutex
	groups  map[string]*targetgroup.Group
	updates int
	stop    func()
	stopped chan struct{}
	metrics *prometheus.Registry
}

func scrape(config string, values ...any) *scraper {
	var parsed consul.SDConfig
	stage.Fine(yaml.Unmarshal(fmt.Appendf(nil, config, values...), &parsed))
	s := &scraper{groups: map[string]*targetgroup.Group{}, stopped: make(chan struct{}), metrics: prometheus.NewRegistry()}
	metrics := parsed.NewDiscovererMetrics(s.metrics, discovery.NewRefreshMetrics(s.metrics))
	stage.Fine(metrics.Register())
	discoverer := stage.Must(parsed.NewDiscoverer(discovery.DiscovererOptions{Metrics: metrics}))
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

func (s *scraper) quiet(within time.Duration) bool {
	s.lock.Lock()
	before := s.updates
	s.lock.Unlock()
	<-time.After(within)
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.updates == before
}

// targets are the addresses with their health, as "127.0.0.1:80 passing".
func (s *scraper) targets() []string {
	s.lock.Lock()
	defer s.lock.Unlock()
	targets := []string{}
	for _, group := range s.groups {
		for _, target := range group.Targets {
			if label(target, "service_id") != "consul" { // a server's registration of itself is not what this is about
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

func (s *scraper) eventually(wanted ...string) {
	slices.Sort(wanted)
	stage.Eventually(stage.Patience, fmt.Sprintf("targets %q", wanted), func() (bool, any) {
		is := s.targets()
		return slices.Equal(is, wanted), is
	})
}

// failures is what Prometheus would alarm for.
func (s *scraper) failures() float64 {
	for _, family := range stage.Must(s.metrics.Gather()) {
		if family.GetName() == "prometheus_sd_consul_rpc_failures_total" {
			return family.Metric[0].Counter.GetValue()
		}
	}
	panic("Prometheus counts its failures no more")
}

func main() {
	server := stage.Start()
	client := stage.Must(api.NewClient(&api.Config{Address: server.HTTP}))
	agent := client.Agent()
	target := stage.NewTarget()
	node := stage.Must(agent.NodeName())
	nodes, _, err := client.Catalog().Node(node, nil)
	nodeAddress := stage.Must(nodes, err).Node.Address
	var everything, some *scraper

	stage.Perform(server, []stage.Step{
		{Name: "all services: nothing at first", Run: func() {
			everything = scrape("server: %q\nrefresh_interval: 100ms", server.HTTP)
			everything.eventually()
		}},
		{Name: "targets appear, with all their labels", Run: func() {
			stage.Fine(agent.ServiceRegister(&api.AgentServiceRegistration{
				ID: "api-1", Name: "api", Address: "127.0.0.1", Port: target.Port, Tags: []string{"prod", "v1"},
				Meta:  map[string]string{"metrics-path": "/stats"},
				Check: &api.AgentServiceCheck{HTTP: target.URL(), Interval: "1s", Timeout: "1s"},
			}))
			everything.eventually(fmt.Sprintf("127.0.0.1:%d passing", target.Port))
			everything.lock.Lock()
			defer everything.lock.Unlock()
			group := everything.groups["api"]
			stage.Check(label(group.Labels, "service") == "api" && label(group.Labels, "dc") != "", "labels of the group: %v", group.Labels)
			labels := group.Targets[0]
			for name, wanted := range map[string]string{
				"node": node, "tags": ",prod,v1,", "service_id": "api-1", "service_address": "127.0.0.1",
				"service_port": fmt.Sprint(target.Port), "service_metadata_metrics_path": "/stats",
			} {
				stage.Check(label(labels, name) == wanted, "label %s is %q, not %q", name, label(labels, name), wanted)
			}
			stage.Check(label(labels, "tagged_address_lan") != "", "no tagged address of the node in %v", slices.Sorted(maps.Keys(labels)))
		}},
		{Name: "an instance without an address is at its node's", Run: func() {
			stage.Fine(agent.ServiceRegister(&api.AgentServiceRegistration{ID: "api-2", Name: "api", Port: 9002, Tags: []string{"test"}}))
			everything.eventually(fmt.Sprintf("127.0.0.1:%d passing", target.Port), nodeAddress+":9002 passing")
		}},
		{Name: "services, tags and a health filter", Run: func() {
			some = scrape("server: %q\nrefresh_interval: 100ms\nservices: [api]\ntags: [prod]\nhealth_filter: Service.Meta[\"metrics-path\"] == \"/stats\"", server.HTTP)
			some.eventually(fmt.Sprintf("127.0.0.1:%d passing", target.Port))
		}},
		{Name: "a filter for the catalog", Run: func() {
			_, err := client.Catalog().Register(&api.CatalogRegistration{
				Node: "outside", Address: "10.9.8.7", NodeMeta: map[string]string{"rack": "r1"},
				Service: &api.AgentService{Service: "exporter", Port: 9100, Weights: api.AgentWeights{Passing: 1, Warning: 1}},
			}, nil)
			stage.Fine(err)
			defer client.Catalog().Deregister(&api.CatalogDeregistration{Node: "outside"}, nil)
			racked := scrape("server: %q\nrefresh_interval: 100ms\nfilter: NodeMeta.rack == r1", server.HTTP)
			defer racked.stop()
			racked.eventually("10.9.8.7:9100 passing")
		}},
		{Name: "health is a label, and follows the check", Run: func() {
			target.Answer(429)
			some.eventually(fmt.Sprintf("127.0.0.1:%d warning", target.Port))
			target.Answer(500)
			some.eventually(fmt.Sprintf("127.0.0.1:%d critical", target.Port))
			stage.Check(strings.Contains(fmt.Sprint(everything.targets()), "critical"), "everything: %v", everything.targets())
			target.Answer(200)
			some.eventually(fmt.Sprintf("127.0.0.1:%d passing", target.Port))
			stage.Fine(agent.EnableServiceMaintenance("api-1", ""))
			some.eventually(fmt.Sprintf("127.0.0.1:%d maintenance", target.Port))
			stage.Fine(agent.DisableServiceMaintenance("api-1"))
			some.eventually(fmt.Sprintf("127.0.0.1:%d passing", target.Port))
		}},
		{Name: "nothing changes: nothing is told", Run: func() {
			// It hears of the last step's end after the other did, or before.
			everything.eventually(fmt.Sprintf("127.0.0.1:%d passing", target.Port), nodeAddress+":9002 passing")
			stage.Check(everything.quiet(time.Second), "an update in a quiet second")
		}},
		{Name: "targets go with the last instance", Run: func() {
			stage.Fine(agent.ServiceDeregister("api-1"))
			some.eventually()
			stage.Fine(agent.ServiceDeregister("api-2"))
			everything.eventually()
		}},
		{Name: "no call has failed, and both end", Run: func() {
			for _, s := range []*scraper{everything, some} {
				stage.Check(s.failures() == 0, "%v calls failed", s.failures())
				s.stop()
				select {
				case <-s.stopped:
				case <-time.After(stage.Patience):
					stage.Check(false, "a discoverer did not end")
				}
			}
		}},
		{Name: "the server ends well", Run: server.Terminate},
	})
}
