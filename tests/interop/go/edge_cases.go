package main

import (
	"crypto/rand"
	"time"

	pb "callboard.dev/proto/callboard/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Invalid requests, lost leases, replaced registrations, filters, and watches of services without instances.

// expectError checks that an error has this code and an ErrorInfo of Callboard, and returns its details.
func expectError(err error, code codes.Code) []any {
	received := status.Convert(err)
	check(received.Code() == code, "expected %v, got %v: %s", code, received.Code(), received.Message())
	info := detail[*errdetails.ErrorInfo](received.Details())
	check(info.GetDomain() == "callboard.dev" && info.GetReason() != "", "unexpected ErrorInfo: %v", info)
	return received.Details()
}

func detail[T any](details []any) (found T) {
	for _, detail := range details {
		if wanted, ok := detail.(T); ok {
			return wanted
		}
	}
	return found
}

func malformedToken(w *fixture) {
	bad := open(w.ctx, w.reader, &pb.WatchRequest{Services: lifecycleServices, ResumeToken: []byte("too short")}, nil)
	_, err := bad.next(eventTimeout)
	violations := detail[*errdetails.BadRequest](expectError(err, codes.InvalidArgument)).GetFieldViolations()
	check(len(violations) == 1 && violations[0].Field == "resume_token", "the field violations are %v", violations)
}

func tokenOfOtherSelector(w *fixture) {
	other := open(w.ctx, w.reader, &pb.WatchRequest{Services: []string{"orders"}, ResumeToken: w.watch.token}, &watch{})
	defer other.close()
	first, err := other.next(eventTimeout)
	check(err == nil && first.GetReset_() != nil, "the first message is %v, error %v; expected a reset", first, err)
	check(other.reset == pb.ResetReason_RESET_REASON_OTHER_SELECTOR, "the reason of the reset is %v", other.reset)
	other.synced()
	wanted := must(w.discovery().ListInstances(w.ctx, &pb.ListInstancesRequest{Service: "orders"})).Instances
	check(len(wanted) == 3 && len(other.instances) == len(wanted), "listed %d, watched %d", len(wanted), len(other.instances))
	for _, instance := range wanted {
		check(proto.Equal(other.instances["orders/"+instance.Id], instance), "listed %v, watched %v", instance, other.instances)
	}
}

func unknownLease(w *fixture) {
	unknown := make([]byte, 16)
	rand.Read(unknown)
	state := newHeartbeats(w.ctx, w.writer).state(unknown)
	check(state == pb.LeaseState_LEASE_STATE_UNKNOWN, "the state of an unknown lease is %v", state)
}

func takesOver(w *fixture) {
	first, second := bootOf("leader", "l-1", time.Minute), bootOf("leader", "l-1", time.Minute)
	held := w.register(first).LeaseId
	heartbeats := newHeartbeats(w.ctx, w.writer)
	state := heartbeats.state(held)
	check(state == pb.LeaseState_LEASE_STATE_HELD, "the first lease is %v", state)
	registered := w.registeredRevision("leader", "l-1")

	_, err := w.registry().Register(w.ctx, second)
	retry := detail[*errdetails.RetryInfo](expectError(err, codes.AlreadyExists))
	check(retry.GetRetryDelay().AsDuration() > 0, "RetryInfo without a delay: %v", retry)
	check(w.registeredRevision("leader", "l-1") == registered, "the rejected registration changed registered_revision")

	second.Replace = true
	taken := w.register(second).LeaseId
	state = heartbeats.state(held)
	check(state == pb.LeaseState_LEASE_STATE_SUPERSEDED, "the replaced lease is %v", state)
	state = heartbeats.state(taken)
	check(state == pb.LeaseState_LEASE_STATE_HELD, "the second lease is %v", state)
	check(w.registeredRevision("leader", "l-1") > registered, "replacing the instance did not increase registered_revision")

	w.deregister("leader", "l-1")
	state = heartbeats.state(taken)
	check(state == pb.LeaseState_LEASE_STATE_REMOVED, "after an operator's deregistration the lease is %v", state)
	_, err = w.discovery().GetInstance(w.ctx, &pb.GetInstanceRequest{Service: "leader", Id: "l-1"})
	expectError(err, codes.NotFound)
}

// registeredRevision returns the revision at which the current registration of an instance began.
func (w *fixture) registeredRevision(service, id string) uint64 {
	return must(w.discovery().GetInstance(w.ctx, &pb.GetInstanceRequest{Service: service, Id: id})).Instance.RegisteredRevision
}

func filters(w *fixture) {
	blue, red := bootOf("colors", "c-1", time.Minute), bootOf("colors", "c-2", time.Minute)
	blue.Tags, red.Tags = []string{"blue", "fast"}, []string{"red"}
	w.register(blue)
	w.register(red)
	watch := open(w.ctx, w.reader, &pb.WatchRequest{Services: []string{"colors"}, Filter: `"blue" in tags`}, nil)
	defer watch.close()
	watch.synced()
	check(len(watch.instances) == 1 && watch.instances["colors/c-1"] != nil, "the matching instances are %v", watch.instances)

	w.update(&pb.UpdateInstanceRequest{Service: "colors", Id: "c-2", Tags: []string{"red", "blue"}}, "tags")
	watch.updated("colors/c-2")
	w.update(&pb.UpdateInstanceRequest{Service: "colors", Id: "c-1", Tags: []string{"fast"}}, "tags")
	watch.removed("colors/c-1", pb.RemovalReason_REMOVAL_REASON_NO_LONGER_MATCHES, eventTimeout)

	// The filter excludes c-1 now, so the next change is the removal of c-2.
	w.update(&pb.UpdateInstanceRequest{Service: "colors", Id: "c-1", Weight: 2}, "weight")
	w.deregister("colors", "c-1")
	w.deregister("colors", "c-2")
	watch.removed("colors/c-2", deregistered, eventTimeout)

	bad := open(w.ctx, w.reader, &pb.WatchRequest{Services: []string{"colors"}, Filter: `"blue" within tags`}, nil)
	_, err := bad.next(eventTimeout)
	violations := detail[*errdetails.BadRequest](expectError(err, codes.InvalidArgument)).GetFieldViolations()
	check(len(violations) == 1 && violations[0].Field == "filter", "the field violations are %v", violations)
}

func watchesBeforeRegistration(w *fixture) {
	watch := open(w.ctx, w.reader, &pb.WatchRequest{Services: []string{"not-yet"}}, nil)
	defer watch.close()
	watch.synced()
	check(len(watch.instances) == 0, "no instance is registered, but the snapshot has %v", watch.instances)
	request := bootOf("not-yet", "n-1", time.Minute)
	request.Starting = true
	request.DisconnectGrace = durationpb.New(time.Second)
	registered := w.register(request)
	seen := watch.updated("not-yet/n-1")
	check(seen.Status == pb.InstanceStatus_INSTANCE_STATUS_STARTING, "the status is %v", seen.Status)
	check(seen.Revision == registered.Revision && seen.RegisteredRevision == registered.Revision,
		"registered at revision %d, seen at %d", registered.Revision, seen.Revision)

	w.update(&pb.UpdateInstanceRequest{Service: "not-yet", Id: "n-1", LeaseId: registered.LeaseId}, "starting")
	seen = watch.updated("not-yet/n-1")
	check(seen.Status == pb.InstanceStatus_INSTANCE_STATUS_SERVING, "the status is %v", seen.Status)
}
