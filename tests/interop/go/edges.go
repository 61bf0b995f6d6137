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

// What the server says to clients that are wrong, late, second or picky.

// refused wants an error of this code, from this server, and returns what else it carries.
func refused(err error, code codes.Code) []any {
	said := status.Convert(err)
	check(said.Code() == code, "wanted %v, got %v: %s", code, said.Code(), said.Message())
	info := detail[*errdetails.ErrorInfo](said.Details())
	check(info.GetDomain() == "callboard.dev" && info.GetReason() != "", "the error says of itself: %v", info)
	return said.Details()
}

func detail[T any](details []any) (found T) {
	for _, detail := range details {
		if wanted, ok := detail.(T); ok {
			return wanted
		}
	}
	return found
}

func malformedToken(w *world) {
	bad := open(w.ctx, w.reader, &pb.WatchRequest{Services: storySelection, ResumeToken: []byte("too short")}, nil)
	_, err := bad.next(patience)
	violations := detail[*errdetails.BadRequest](refused(err, codes.InvalidArgument)).GetFieldViolations()
	check(len(violations) == 1 && violations[0].Field == "resume_token", "it blames %v", violations)
}

func tokenOfOtherSelector(w *world) {
	other := open(w.ctx, w.reader, &pb.WatchRequest{Services: []string{"orders"}, ResumeToken: w.watch.token}, &watch{})
	defer other.close()
	first, err := other.next(patience)
	check(err == nil && first.GetReset_() != nil, "first came %v, %v", first, err)
	check(other.reset == pb.ResetReason_RESET_REASON_OTHER_SELECTOR, "reset: %v", other.reset)
	other.synced()
	wanted := must(w.discovery().ListInstances(w.ctx, &pb.ListInstancesRequest{Service: "orders"})).Instances
	check(len(wanted) == 3 && len(other.held) == len(wanted), "listed %d, watched %d", len(wanted), len(other.held))
	for _, instance := range wanted {
		check(proto.Equal(other.held["orders/"+instance.Id], instance), "listed %v, watched %v", instance, other.held)
	}
}

func unknownLease(w *world) {
	made := make([]byte, 16)
	rand.Read(made)
	state := newHeartbeats(w.ctx, w.writer).one(made)
	check(state == pb.LeaseState_LEASE_STATE_UNKNOWN, "a lease that nobody granted is %v", state)
}

func takesOver(w *world) {
	first, second := bootOf("leader", "l-1", time.Minute), bootOf("leader", "l-1", time.Minute)
	held := w.register(first).LeaseId
	heartbeats := newHeartbeats(w.ctx, w.writer)
	state := heartbeats.one(held)
	check(state == pb.LeaseState_LEASE_STATE_HELD, "the first is %v", state)
	life := w.life("leader", "l-1")

	_, err := w.registry().Register(w.ctx, second)
	retry := detail[*errdetails.RetryInfo](refused(err, codes.AlreadyExists))
	check(retry.GetRetryDelay().AsDuration() > 0, "when to try again: %v", retry)
	check(w.life("leader", "l-1") == life, "the refused one changed something")

	second.Replace = true
	taken := w.register(second).LeaseId
	state = heartbeats.one(held)
	check(state == pb.LeaseState_LEASE_STATE_SUPERSEDED, "the first is now %v", state)
	state = heartbeats.one(taken)
	check(state == pb.LeaseState_LEASE_STATE_HELD, "the second is %v", state)
	check(w.life("leader", "l-1") > life, "another boot, and yet the same life")

	w.deregister("leader", "l-1")
	state = heartbeats.one(taken)
	check(state == pb.LeaseState_LEASE_STATE_REMOVED, "removed by an operator, its lease is %v", state)
	_, err = w.discovery().GetInstance(w.ctx, &pb.GetInstanceRequest{Service: "leader", Id: "l-1"})
	refused(err, codes.NotFound)
}

// life is the revision at which an instance's present life began.
func (w *world) life(service, id string) uint64 {
	return must(w.discovery().GetInstance(w.ctx, &pb.GetInstanceRequest{Service: service, Id: id})).Instance.RegisteredRevision
}

func filters(w *world) {
	blue, red := bootOf("colors", "c-1", time.Minute), bootOf("colors", "c-2", time.Minute)
	blue.Tags, red.Tags = []string{"blue", "fast"}, []string{"red"}
	w.register(blue)
	w.register(red)
	watch := open(w.ctx, w.reader, &pb.WatchRequest{Services: []string{"colors"}, Filter: `"blue" in tags`}, nil)
	defer watch.close()
	watch.synced()
	check(len(watch.held) == 1 && watch.held["colors/c-1"] != nil, "matching: %v", watch.held)

	w.update(&pb.UpdateInstanceRequest{Service: "colors", Id: "c-2", Tags: []string{"red", "blue"}}, "tags")
	watch.updated("colors/c-2")
	w.update(&pb.UpdateInstanceRequest{Service: "colors", Id: "c-1", Tags: []string{"fast"}}, "tags")
	watch.removed("colors/c-1", pb.RemovalReason_REMOVAL_REASON_NO_LONGER_MATCHES, patience)

	// Neither of these is this watcher's business; what it hears next is the third.
	w.update(&pb.UpdateInstanceRequest{Service: "colors", Id: "c-1", Weight: 2}, "weight")
	w.deregister("colors", "c-1")
	w.deregister("colors", "c-2")
	watch.removed("colors/c-2", deregistered, patience)

	bad := open(w.ctx, w.reader, &pb.WatchRequest{Services: []string{"colors"}, Filter: `"blue" within tags`}, nil)
	_, err := bad.next(patience)
	violations := detail[*errdetails.BadRequest](refused(err, codes.InvalidArgument)).GetFieldViolations()
	check(len(violations) == 1 && violations[0].Field == "filter", "it blames %v", violations)
}

func watchesBeforeRegistration(w *world) {
	watch := open(w.ctx, w.reader, &pb.WatchRequest{Services: []string{"not-yet"}}, nil)
	defer watch.close()
	watch.synced()
	check(len(watch.held) == 0, "nobody registered, yet there is %v", watch.held)
	request := bootOf("not-yet", "n-1", time.Minute)
	request.Starting = true
	request.DisconnectGrace = durationpb.New(time.Second)
	registered := w.register(request)
	seen := watch.updated("not-yet/n-1")
	check(seen.Status == pb.InstanceStatus_INSTANCE_STATUS_STARTING, "it is %v", seen.Status)
	check(seen.Revision == registered.Revision && seen.RegisteredRevision == registered.Revision,
		"registered at %d, seen at %d", registered.Revision, seen.Revision)

	w.update(&pb.UpdateInstanceRequest{Service: "not-yet", Id: "n-1", LeaseId: registered.LeaseId}, "starting")
	seen = watch.updated("not-yet/n-1")
	check(seen.Status == pb.InstanceStatus_INSTANCE_STATUS_SERVING, "it is %v", seen.Status)
}
