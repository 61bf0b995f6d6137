package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	pb "callboard.dev/proto/callboard/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// Registration, renewal, update, removal and resumption: three instances of `orders`, one heartbeat stream, one watch.

const (
	renewedTTL  = 3 * time.Second
	expiringTTL = 2 * time.Second

	deregistered = pb.RemovalReason_REMOVAL_REASON_DEREGISTERED
	expired      = pb.RemovalReason_REMOVAL_REASON_EXPIRED
)

var (
	orders = []*pb.RegisterRequest{bootOf("orders", "o-1", renewedTTL), bootOf("orders", "o-2", renewedTTL), bootOf("orders", "o-3", renewedTTL)}
	leases = map[string][]byte{} // of the instances of `orders`, by id
	stop   = make(chan struct{}) // ends the heartbeats

	// Instances that are killed or expire are in services of one or two instances, where self-preservation does not hold them.
	lifecycleServices = []string{"orders", "batch", "victims"}
)

func registersThree(w *fixture) {
	for i, request := range orders {
		request.Addresses = []*pb.Address{
			{Host: "127.0.0.1", Port: uint32(9001 + i)},
			{Host: "orders.example", Port: 9100, Name: "metrics"},
		}
		request.Tags = []string{"v1", fmt.Sprintf("slot-%d", i)}
		request.Metadata = map[string]string{"team": "checkout", "slot": fmt.Sprint(i)}
		request.Weight = proto.Uint32(uint32(10 * (i + 1)))
		request.Locality = &pb.Locality{Region: "eu", Zone: fmt.Sprintf("eu-1%c", 'a'+i)}
		answer := w.register(request)
		check(answer.Ttl.AsDuration() == renewedTTL, "the granted TTL is %v", answer.Ttl.AsDuration())
		leases[request.Id] = answer.LeaseId

		again := w.register(request)
		check(slices.Equal(again.LeaseId, answer.LeaseId), "registering the same boot again returned another lease")
		check(again.Revision == answer.Revision, "registering again changed the revision from %d to %d", answer.Revision, again.Revision)
	}
}

func heartbeatsOnOneStream(w *fixture) {
	w.heartbeats = newHeartbeats(w.ctx, w.writer, leases["o-1"], leases["o-2"], leases["o-3"])
	for _, report := range w.heartbeats.renew().reports {
		left := report.TimeLeft.AsDuration()
		check(report.State == pb.LeaseState_LEASE_STATE_HELD, "a lease is %v", report.State)
		check(left > 0 && left <= renewedTTL, "%v left of %v", left, renewedTTL)
	}
	go w.heartbeats.run(stop)
}

func watchesFromSecondConnection(w *fixture) {
	w.watch = open(w.ctx, w.reader, &pb.WatchRequest{Services: lifecycleServices}, nil)
	w.watch.synced()
	check(len(w.watch.instances) == len(orders), "the snapshot has %d instances", len(w.watch.instances))
	for _, request := range orders {
		instance := w.watch.instances["orders/"+request.Id]
		check(instance != nil, "%s is not in the snapshot", request.Id)
		check(instance.RegisteredRevision != 0 && instance.RegisteredAt.IsValid(), "%s has no registered_revision or registered_at", request.Id)
		instance = proto.CloneOf(instance)
		instance.RegisteredAt, instance.RegisteredRevision, instance.Revision = nil, 0, 0
		expected := &pb.Instance{
			Service: request.Service, Id: request.Id, Addresses: request.Addresses, Tags: request.Tags, Metadata: request.Metadata,
			Weight: *request.Weight, Locality: request.Locality, Status: pb.InstanceStatus_INSTANCE_STATUS_SERVING,
		}
		check(proto.Equal(instance, expected), "registered %v, the snapshot has %v", expected, instance)
	}
}

func (w *fixture) update(request *pb.UpdateInstanceRequest, fields ...string) *pb.Instance {
	request.UpdateMask = &fieldmaskpb.FieldMask{Paths: fields}
	return must(w.registry().UpdateInstance(w.ctx, request)).Instance
}

func (w *fixture) drain(service, id string, draining bool) {
	w.update(&pb.UpdateInstanceRequest{Service: service, Id: id, Draining: draining}, "draining")
}

func (w *fixture) deregister(service, id string) {
	answer := must(w.registry().Deregister(w.ctx, &pb.DeregisterRequest{Service: service, Id: id}))
	check(answer.Removed, "%s/%s was not registered", service, id)
}

func seesChange(w *fixture) {
	began := time.Now()
	answered := w.update(&pb.UpdateInstanceRequest{
		Service: "orders", Id: "o-1", LeaseId: leases["o-1"], Weight: 7, Tags: []string{"v2"}, Metadata: map[string]string{"not": "in the mask"},
	}, "weight", "tags")
	seen := w.watch.updated("orders/o-1")
	w.note = fmt.Sprintf(" (%v after it was sent)", time.Since(began).Round(10*time.Microsecond))
	check(proto.Equal(seen, answered), "UpdateInstance returned %v, the watch %v", answered, seen)
	check(seen.Weight == 7 && slices.Equal(seen.Tags, []string{"v2"}), "the updated instance is %v", seen)
	check(seen.Metadata["team"] == "checkout", "a field outside the mask changed: %v", seen.Metadata)
}

func seesDrain(w *fixture) {
	w.drain("orders", "o-2", true)
	status := w.watch.updated("orders/o-2").Status
	check(status == pb.InstanceStatus_INSTANCE_STATUS_DRAINING, "after the drain the status is %v", status)
	w.drain("orders", "o-2", false)
	status = w.watch.updated("orders/o-2").Status
	check(status == pb.InstanceStatus_INSTANCE_STATUS_SERVING, "after the end of the drain the status is %v", status)
}

func seesDeregistration(w *fixture) {
	w.heartbeats.drop(leases["o-3"])
	request := &pb.DeregisterRequest{Service: "orders", Id: "o-3", LeaseId: leases["o-3"]}
	answer := must(w.registry().Deregister(w.ctx, request))
	check(answer.Removed, "the instance was not registered")
	w.watch.removed("orders/o-3", deregistered, eventTimeout)
	check(w.watch.revision >= answer.Revision, "removed at revision %d, seen at %d", answer.Revision, w.watch.revision)

	repeated := must(w.registry().Deregister(w.ctx, request))
	check(!repeated.Removed, "a repeated deregistration removed something")
}

func seesKill(w *fixture) {
	child := exec.Command(os.Args[0], "victim", w.server.grpc)
	child.Stderr = os.Stderr
	stdout := must(child.StdoutPipe())
	check(child.Start() == nil, "the child process does not start")
	defer child.Wait()
	defer child.Process.Kill()
	w.watch.updated("victims/v-1")
	line := must(bufio.NewReader(stdout).ReadString('\n'))
	check(line == "held\n", "the child process printed %q", line)

	killed := time.Now()
	check(child.Process.Kill() == nil, "the child process cannot be killed")
	gone := w.watch.removed("victims/v-1", expired, victimGrace+time.Second+tolerance).Sub(killed)
	w.note = fmt.Sprintf(" (%v after the kill)", gone.Round(time.Millisecond))
	check(gone >= victimGrace, "removed %v after the kill, before its disconnect_grace of %v", gone, victimGrace)
}

func seesExpiry(w *fixture) {
	renewed := w.register(bootOf("batch", "b-1", expiringTTL)).LeaseId
	expiring := w.register(bootOf("batch", "b-2", expiringTTL)).LeaseId
	w.watch.updated("batch/b-1")
	w.watch.updated("batch/b-2")
	w.heartbeats.add(renewed)
	w.heartbeats.add(expiring)
	w.heartbeats.renew()

	last := w.heartbeats.drop(expiring)
	at := w.watch.removed("batch/b-2", expired, expiringTTL+time.Second+tolerance)
	w.note = fmt.Sprintf(" (%v after its last heartbeat)", at.Sub(last.answered).Round(time.Millisecond))
	check(at.Sub(last.sent) >= expiringTTL, "removed %v after its last heartbeat: too early", at.Sub(last.sent))
	check(at.Sub(last.answered) <= expiringTTL+time.Second+tolerance, "removed %v after its last heartbeat: too late", at.Sub(last.answered))

	listed := must(w.discovery().ListInstances(w.ctx, &pb.ListInstancesRequest{Service: "batch"})).Instances
	check(len(listed) == 1 && listed[0].Id == "b-1", "the remaining instances are %v", listed)
	one := must(w.discovery().GetInstance(w.ctx, &pb.GetInstanceRequest{Service: "batch", Id: "b-1"}))
	check(one.Lease.GetConnected() && one.Lease.Ttl.AsDuration() == expiringTTL, "the renewed instance has the lease %v", one.Lease)
	select {
	case <-w.heartbeats.done:
		check(false, "the heartbeats stopped: %v", w.heartbeats.err)
	default:
	}
}

func resumes(w *fixture) {
	orders[2].BootId += "-again"
	w.register(withTTL(orders[2], time.Minute))
	w.watch.updated("orders/o-3")
	w.watch.close()
	before := w.watch

	// While no watch is open: o-1 changes twice, o-3 is deregistered, o-4 is registered, o-5 is registered and deregistered.
	for _, weight := range []uint32{8, 9} {
		w.update(&pb.UpdateInstanceRequest{Service: "orders", Id: "o-1", Weight: weight}, "weight")
	}
	w.register(bootOf("orders", "o-4", time.Minute))
	w.register(bootOf("orders", "o-5", time.Minute))
	w.deregister("orders", "o-5")
	w.deregister("orders", "o-3")

	must(0, w.reader.Close())
	w.reader = connect(w.server.grpc)
	request := &pb.WatchRequest{Services: lifecycleServices, ResumeToken: before.token}
	w.watch = open(w.ctx, w.reader, request, before)
	w.watch.synced()
	check(w.watch.reset == pb.ResetReason_RESET_REASON_UNSPECIFIED, "unexpected reset: %v", w.watch.reset)
	missed := map[string]*pb.Change{}
	for _, change := range w.watch.changes {
		key, _ := nameOf(change.Change)
		check(missed[key] == nil, "two changes of %s", key)
		missed[key] = change.Change
	}
	w.watch.changes = nil
	check(len(missed) == 3, "expected three changes, got %v", missed)
	check(missed["orders/o-1"].GetUpdated().GetWeight() == 9, "o-1: %v", missed["orders/o-1"])
	check(missed["orders/o-4"].GetUpdated() != nil, "o-4: %v", missed["orders/o-4"])
	check(missed["orders/o-3"].GetRemoved().GetReason() == deregistered, "o-3: %v", missed["orders/o-3"])

	// A change that is still outstanding would arrive before this one.
	w.update(&pb.UpdateInstanceRequest{Service: "orders", Id: "o-1", Weight: 11}, "weight")
	check(w.watch.updated("orders/o-1").Weight == 11, "another update arrived first")
}

func withTTL(request *pb.RegisterRequest, ttl time.Duration) *pb.RegisterRequest {
	request.Ttl = durationpb.New(ttl)
	return request
}
