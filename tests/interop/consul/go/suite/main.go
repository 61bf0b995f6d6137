// Tests a real callboard server with Go clients for Consul, in the versions that their authors released:
// hashicorp/consul/api (programs.go, agent.go, ttl.go, catalog.go, blocking.go), go-kit's sd/consul (gokit.go),
// mbobakov/grpc-consul-resolver (resolver.go).
//
//	suite         runs all steps except the one that takes more than a minute
//	suite reap    runs that step
package main

import (
	"os"

	"callboard.dev/interop/consul/harness"
	"github.com/hashicorp/consul/api"
)

var (
	server *harness.Server
	client *api.Client
	agent  *api.Agent
	health *api.Health
)

var steps = []harness.Step{
	{"tutorial: registers, discovers, calls, deregisters", tutorialPair},
	{"tutorial: the same with the default ports and a check every 10 s", tutorialPairOnDefaultPort},
	{"agent: returns itself, the leader and the datacenters", agentSelf},
	{"agent: registers with all fields, lists, filters, deregisters", agentServices},
	{"agent: returns errors with Consul's codes and texts", agentErrors},
	{"agent: an HTTP check passes, warns, fails, recovers", httpCheck},
	{"agent: runs several checks of a service, with HTTP, TCP and a TTL", severalChecks},
	{"agent: starts and ends maintenance of a service", serviceMaintenance},
	{"agent: starts and ends maintenance of the node", nodeMaintenance},
	{"agent: registers and deregisters checks separately", standaloneChecks},
	{"agent: keeps the status of checks when a service registers again", registersAgain},
	{"ttl: a check passes, warns, fails", ttlStates},
	{"ttl: a check expires and passes again", ttlExpires},
	{"catalog: registers an external node, its service and check", catalogNode},
	{"catalog: lists services, tags and nodes", catalogServices},
	{"catalog: filters the list of services", catalogFilters},
	{"health: selects instances by tags and filters", healthFilters},
	{"health: lists checks by service, node and state", healthViews},
	{"blocking: a query without a change returns after its wait", blocksUntilWait},
	{"blocking: a query returns after a registration, a check or a deregistration", returnsAfterChange},
	{"blocking: a query ignores other services and repeated states", ignoresOtherChanges},
	{"blocking: a query returns after the first registration of a service", blocksOnUnknownService},
	{"blocking: a query of the catalog returns after a change of names or tags", blocksOnCatalog},
	{"blocking: queries of states and nodes return after a change", blocksOnStates},
	{"blocking: a query of a service by hash returns after a change", blocksOnHash},
	{"watch: runs a plan as `consul watch` does", watchPlans},
	{"key/value: a request gets 501, not the response for a missing key", keyValue},
	{"go-kit: the registrar registers, and the instancer receives the changes", goKit},
	{"grpc-consul-resolver: calls reach the instances whose gRPC checks pass", grpcResolver},
	{"the server exits with code 0 while a blocking query is open", shutsDown},
}

func main() {
	server = harness.Start()
	client = connect(server.HTTP)
	agent, health = client.Agent(), client.Health()
	if len(os.Args) == 2 && os.Args[1] == "reap" {
		steps = []harness.Step{{"tutorial: a killed service becomes critical, and is deregistered after a minute", deregistersCriticalService}}
	}
	harness.RunSteps(server, steps)
}

func connect(address string) *api.Client {
	return harness.Must(api.NewClient(&api.Config{Address: address}))
}
