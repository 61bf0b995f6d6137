package main

import (
	"context"
	"slices"
	"time"

	pb "callboard.dev/proto/callboard/v1"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Health, reflection and shutdown, with the stubs that grpc-go includes.

const (
	serving    = healthpb.HealthCheckResponse_SERVING
	notServing = healthpb.HealthCheckResponse_NOT_SERVING
	unknown    = healthpb.HealthCheckResponse_SERVICE_UNKNOWN
)

func health(w *fixture) {
	client := healthpb.NewHealthClient(w.reader)
	names := []string{"", "callboard.v1.RegistryService", "callboard.v1.DiscoveryService", "callboard.v1.AdminService", "orders"}
	for _, name := range names {
		answer := must(client.Check(w.ctx, &healthpb.HealthCheckRequest{Service: name}))
		check(answer.Status == serving, "%q is %v", name, answer.Status)
	}
	_, err := client.Check(w.ctx, &healthpb.HealthCheckRequest{Service: "nobody"})
	check(status.Code(err) == codes.NotFound, "Check of an unknown service: %v", err)

	listed := must(client.List(w.ctx, &healthpb.HealthListRequest{})).Statuses
	for _, name := range names {
		check(listed[name].GetStatus() == serving, "List reports %q as %v", name, listed[name])
	}
}

// healthWatch watches the health of a name. Each call of the returned function returns the next status.
func healthWatch(w *fixture, name string) func() healthpb.HealthCheckResponse_ServingStatus {
	stream := must(healthpb.NewHealthClient(w.reader).Watch(w.ctx, &healthpb.HealthCheckRequest{Service: name}))
	statuses, ended := make(chan healthpb.HealthCheckResponse_ServingStatus, 100), make(chan error, 1)
	go func() {
		defer close(statuses)
		for {
			answer, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			statuses <- answer.Status
		}
	}()
	return func() healthpb.HealthCheckResponse_ServingStatus {
		select {
		case status, ok := <-statuses:
			if !ok {
				check(false, "the health watch of %q has ended: %v", name, <-ended)
			}
			return status
		case <-time.After(eventTimeout):
			panic(failure("no message on the health watch of " + name))
		}
	}
}

func watchesHealth(w *fixture) {
	next := healthWatch(w, "newcomer")
	expect := func(what string, wanted healthpb.HealthCheckResponse_ServingStatus) {
		status := next()
		check(status == wanted, "%s: the status is %v", what, status)
	}
	expect("before the registration", unknown)
	w.register(bootOf("newcomer", "n-1", time.Minute))
	expect("after the registration", serving)
	w.drain("newcomer", "n-1", true)
	expect("with its only instance draining", notServing)
	w.drain("newcomer", "n-1", false)
	expect("after the end of the drain", serving)
	w.deregister("newcomer", "n-1")
	expect("after the deregistration", unknown)
}

func reflects(w *fixture) {
	ctx, cancel := context.WithTimeout(w.ctx, eventTimeout)
	defer cancel()
	stream := must(reflectionpb.NewServerReflectionClient(w.reader).ServerReflectionInfo(ctx))
	query := func(request *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		check(stream.Send(request) == nil, "sending on the reflection stream failed")
		return must(stream.Recv())
	}
	answer := query(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	var names []string
	for _, service := range answer.GetListServicesResponse().GetService() {
		names = append(names, service.Name)
	}
	wanted := []string{
		"callboard.v1.RegistryService", "callboard.v1.DiscoveryService", "callboard.v1.AdminService", "grpc.health.v1.Health",
	}
	for _, name := range wanted {
		check(slices.Contains(names, name), "%s is not among %v", name, names)
		files := query(&reflectionpb.ServerReflectionRequest{
			MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name},
		}).GetFileDescriptorResponse().GetFileDescriptorProto()
		check(len(files) > 0, "no file descriptor contains %s", name)
		var file descriptorpb.FileDescriptorProto
		must(0, proto.Unmarshal(files[0], &file))
		check(slices.ContainsFunc(file.Service, func(service *descriptorpb.ServiceDescriptorProto) bool {
			return file.GetPackage()+"."+service.GetName() == name
		}), "%s is not in %s", name, file.GetName())
	}
}

// shutsDown leaves every stream open: the server has to exit without waiting for the clients.
func shutsDown(w *fixture) {
	health := healthWatch(w, "")
	status := health()
	check(status == serving, "before the shutdown, health is %v", status)
	close(stop)
	select {
	case <-w.heartbeats.done:
	case <-time.After(eventTimeout):
		check(false, "the heartbeats do not stop")
	}
	check(w.heartbeats.err == nil, "the heartbeats stopped early: %v", w.heartbeats.err)

	notice := make(chan pb.Notice, 1)
	go func() {
		for {
			answer, err := w.heartbeats.stream.Recv()
			if err != nil {
				close(notice)
				return
			}
			notice <- answer.Notice
		}
	}()
	code, took := w.server.terminate(6 * time.Second)
	check(code == 0, "the server exited with code %d after %v", code, took)
	w.note = " (after " + took.Round(time.Millisecond).String() + ")"

	status = health()
	check(status == notServing, "after the shutdown, health is %v", status)
	received := <-notice
	check(received == pb.Notice_NOTICE_RECONNECT, "the notice on the heartbeat stream is %v", received)
	for w.watch.notice == pb.Notice_NOTICE_UNSPECIFIED {
		_, err := w.watch.next(eventTimeout)
		check(err == nil, "the watch ended without a notice: %v", err)
	}
	check(w.watch.notice == pb.Notice_NOTICE_RECONNECT, "the notice on the watch is %v", w.watch.notice)
}
