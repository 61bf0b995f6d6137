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

// Health, reflection and shutdown, with the stubs that grpc-go brings.

const (
	serving    = healthpb.HealthCheckResponse_SERVING
	notServing = healthpb.HealthCheckResponse_NOT_SERVING
	unknown    = healthpb.HealthCheckResponse_SERVICE_UNKNOWN
)

func health(w *world) {
	client := healthpb.NewHealthClient(w.reader)
	names := []string{"", "callboard.v1.RegistryService", "callboard.v1.DiscoveryService", "callboard.v1.AdminService", "orders"}
	for _, name := range names {
		answer := must(client.Check(w.ctx, &healthpb.HealthCheckRequest{Service: name}))
		check(answer.Status == serving, "%q is %v", name, answer.Status)
	}
	_, err := client.Check(w.ctx, &healthpb.HealthCheckRequest{Service: "nobody"})
	check(status.Code(err) == codes.NotFound, "a service that nobody registered: %v", err)

	listed := must(client.List(w.ctx, &healthpb.HealthListRequest{})).Statuses
	for _, name := range names {
		check(listed[name].GetStatus() == serving, "the list says of %q: %v", name, listed[name])
	}
}

// healthWatch follows the health of a name: each call of what it returns gives the next status.
func healthWatch(w *world, name string) func() healthpb.HealthCheckResponse_ServingStatus {
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
		case <-time.After(patience):
			panic(failure("nothing on the health watch of " + name))
		}
	}
}

func watchesHealth(w *world) {
	next := healthWatch(w, "newcomer")
	expect := func(what string, wanted healthpb.HealthCheckResponse_ServingStatus) {
		status := next()
		check(status == wanted, "%s, it is %v", what, status)
	}
	expect("before anybody registered", unknown)
	w.register(bootOf("newcomer", "n-1", time.Minute))
	expect("registered", serving)
	w.drain("newcomer", "n-1", true)
	expect("with its only instance draining", notServing)
	w.drain("newcomer", "n-1", false)
	expect("no longer draining", serving)
	w.deregister("newcomer", "n-1")
	expect("after the last one left", unknown)
}

func reflects(w *world) {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	stream := must(reflectionpb.NewServerReflectionClient(w.reader).ServerReflectionInfo(ctx))
	ask := func(request *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		check(stream.Send(request) == nil, "the reflection stream does not take questions")
		return must(stream.Recv())
	}
	answer := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	var names []string
	for _, service := range answer.GetListServicesResponse().GetService() {
		names = append(names, service.Name)
	}
	wanted := []string{
		"callboard.v1.RegistryService", "callboard.v1.DiscoveryService", "callboard.v1.AdminService", "grpc.health.v1.Health",
	}
	for _, name := range wanted {
		check(slices.Contains(names, name), "%s is not among %v", name, names)
		files := ask(&reflectionpb.ServerReflectionRequest{
			MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name},
		}).GetFileDescriptorResponse().GetFileDescriptorProto()
		check(len(files) > 0, "no file has %s", name)
		var file descriptorpb.FileDescriptorProto
		must(0, proto.Unmarshal(files[0], &file))
		check(slices.ContainsFunc(file.Service, func(service *descriptorpb.ServiceDescriptorProto) bool {
			return file.GetPackage()+"."+service.GetName() == name
		}), "%s is not in %s", name, file.GetName())
	}
}

// shutsDown leaves every stream open: the server has to end by itself.
func shutsDown(w *world) {
	health := healthWatch(w, "")
	status := health()
	check(status == serving, "before it, health is %v", status)
	close(stop)
	select {
	case <-w.heartbeats.done:
	case <-time.After(patience):
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
	check(code == 0, "it ended with code %d after %v", code, took)
	w.note = " (after " + took.Round(time.Millisecond).String() + ")"

	status = health()
	check(status == notServing, "health is %v", status)
	said := <-notice
	check(said == pb.Notice_NOTICE_RECONNECT, "the heartbeat stream was told %v", said)
	for w.watch.notice == pb.Notice_NOTICE_UNSPECIFIED {
		_, err := w.watch.next(patience)
		check(err == nil, "the watch ended without a notice: %v", err)
	}
	check(w.watch.notice == pb.Notice_NOTICE_RECONNECT, "the watch was told %v", w.watch.notice)
}
