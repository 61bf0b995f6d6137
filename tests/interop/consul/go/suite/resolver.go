package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"callboard.dev/interop/consul/harness"
	"github.com/hashicorp/consul/api"
	_ "github.com/mbobakov/grpc-consul-resolver" // registers the scheme consul://
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	grpchealth "google.golang.org/grpc/health"
	pb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
)

// backend is a gRPC server with a health status for the service `echo`. The test calls only its health service, because
// it only needs to know which backend answers.
type backend struct {
	id, address string
	health      *grpchealth.Server
	server      *grpc.Server
}

func newBackend(id string) *backend {
	listener := harness.Must(net.Listen("tcp", "127.0.0.1:0"))
	b := &backend{id: id, address: listener.Addr().String(), health: grpchealth.NewServer(), server: grpc.NewServer()}
	b.health.SetServingStatus("echo", pb.HealthCheckResponse_SERVING)
	pb.RegisterHealthServer(b.server, b.health)
	go b.server.Serve(listener)
	harness.NoError(agent.ServiceRegister(&api.AgentServiceRegistration{
		ID: id, Name: "echo", Address: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port,
		Check: &api.AgentServiceCheck{GRPC: b.address + "/echo", Interval: "1s", Timeout: "1s"},
	}))
	return b
}

func (b *backend) close() {
	agent.ServiceDeregister(b.id)
	b.server.Stop()
}

func grpcResolver() {
	// The resolver logs an error for each empty set, and the set is empty before the first registration.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	target := fmt.Sprintf("consul://%s/echo?healthy=true&wait=30s", server.HTTP)
	conn := harness.Must(grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`)))
	defer conn.Close()
	one, two := newBackend("echo-1"), newBackend("echo-2")
	defer one.close()
	defer two.close()

	// Checks that four calls reach exactly these backends: round_robin uses every backend that the resolver returns.
	reaches := func(backends ...*backend) {
		wanted := []string{}
		for _, b := range backends {
			wanted = append(wanted, b.address)
		}
		slices.Sort(wanted)
		harness.Eventually(harness.EventTimeout, fmt.Sprintf("calls reach %v", wanted), func() (bool, any) {
			var reached []string
			for range 4 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				var server peer.Peer
				_, err := pb.NewHealthClient(conn).Check(ctx, &pb.HealthCheckRequest{}, grpc.WaitForReady(true), grpc.Peer(&server))
				cancel()
				if err != nil {
					return false, err
				}
				reached = append(reached, server.Addr.String())
			}
			slices.Sort(reached)
			reached = slices.Compact(reached)
			return slices.Equal(reached, wanted), reached
		})
	}
	reaches(one, two)
	output := harness.Must(agent.Checks())["service:echo-1"].Output
	same(output, fmt.Sprintf("gRPC check %s/echo: success", one.address), "the output of the check")

	two.health.SetServingStatus("echo", pb.HealthCheckResponse_NOT_SERVING)
	reaches(one)
	two.health.SetServingStatus("echo", pb.HealthCheckResponse_SERVING)
	reaches(one, two)
	three := newBackend("echo-3")
	defer three.close()
	reaches(one, two, three)
	three.close()
	reaches(one, two)
	one.server.Stop()
	reaches(two)
}
