// Go programs of the Consul ecosystem against a real callboard, each with the client that its authors released:
// hashicorp/consul/api (programs.go, agent.go, ttl.go, catalog.go, blocking.go), go-kit's sd/consul (gokit.go),
// mbobakov/grpc-consul-resolver (resolver.go).
//
//	suite         the steps, but for
//	suite reap    the one that takes more than a minute
package main

import (
	"os"

	"callboard.dev/interop/consul/stage"
	"github.com/hashicorp/consul/api"
)

var (
	server *stage.Server
	client *api.Client
	agent  *api.Agent
	health *api.Health
)

var steps = []stage.Step{
	{"the tutorial's pair: registers, is found, is called, says goodbye", tutorialPair},
	{"the tutorial's pair, as compiled: the default port, a check every 10 s", tutorialPairOnDefaultPort},
	{"agent: self, status, datacenters", agentSelf},
	{"agent: registers with all fields, lists, filters, deregisters", agentServices},
	{"agent: refusals have Consul's codes and words", agentRefusals},
	{"agent: an HTTP check passes, warns, fails, recovers", httpCheck},
	{"agent: TCP checks, and several checks of a service", severalChecks},
	{"agent: a service in maintenance, and back", serviceMaintenance},
	{"agent: the node in maintenance, and back", nodeMaintenance},
	{"agent: checks register and deregister by themselves", standaloneChecks},
	{"agent: registering again keeps what checks found", registersAgain},
	{"ttl: passes, warns, fails", ttlStates},
	{"ttl: expires, and comes back", ttlExpires},
	{"catalog: an external node, its service and check", catalogNode},
	{"catalog: services, tags, nodes", catalogServices},
	{"catalog: names by a filter", catalogFilters},
	{"health: tags and filters", healthFilters},
	{"health: checks, states, nodes", healthViews},
	{"blocking: an unchanged service answers after the wait", blocksUntilWait},
	{"blocking: woken by a registration, a check, a deregistration", wokenByChanges},
	{"blocking: not woken by other services, nor by the same state again", notWoken},
	{"blocking: a service that is not there yet", blocksOnAbsent},
	{"blocking: the catalog's names and tags", blocksOnCatalog},
	{"blocking: states and nodes", blocksOnStates},
	{"blocking: one service of the agent, by hash", blocksOnHash},
	{"watch: the plans behind `consul watch`", watchPlans},
	{"key/value says that it is not here, not that the key is absent", keyValue},
	{"go-kit: the registrar registers, the instancer follows", goKit},
	{"grpc-consul-resolver: calls go where gRPC checks pass", grpcResolver},
	{"the server ends well, blocking queries open", shutsDown},
}

func main() {
	server = stage.Start()
	client = connect(server.HTTP)
	agent, health = client.Agent(), client.Health()
	if len(os.Args) == 2 && os.Args[1] == "reap" {
		steps = []stage.Step{{"the tutorial's program, killed: critical, then reaped after its minute", reaps}}
	}
	stage.Perform(server, steps)
}

func connect(address string) *api.Client {
	return stage.Must(api.NewClient(&api.Config{Address: address}))
}
