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

// The story: three instances of `orders` that one stream keeps alive, and a watch that follows them.

const (
	keptTTL   = 3 * time.Second
	fadingTTL = 2 * time.Second

	deregistered = pb.RemovalReason_REMOVAL_REASON_DEREGISTERED
	expired      = pb.RemovalReason_REMOVAL_REASON_EXPIRED
)

var (
	orders = []*pb.RegisterRequest{bootOf("orders", "o-1", keptTTL), bootOf("orders", "o-2", keptTTL), bootOf("orders", "o-3", keptTTL)}
	leases = map[string][]byte{} // of `orders`, by id
	stop   = make(chan struct{}) // ends the heartbeats

	// Victims and fading instances have services of their own: a service of three or more would be protected from losing many at once.
	storySelection = []string{"orders", "batch", "victims"}
)

func registersThree(w *world) {
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
		check(answer.Ttl.AsDuration() == keptTTL, "granted %v", answer.Ttl.AsDuration())
		leases[request.Id] = answer.LeaseId

		again := w.register(request)
		check(slices.Equal(again.LeaseId, answer.LeaseId), "the same boot got another lease")
		check(again.Revision == answer.Revision, "registering again changed the revision from %d to %d", answer.Revision, again.Revision)
	}
}

func heartbeatsOnOneStream(w *world) {
	w.heartbeats = newHeartbeats(w.ctx, w.writer, leases["o-1"], leases["o-2"], leases["o-3"])
	for _, report := range w.heartbeats.beat().reports {
		left := report.TimeLeft.AsDuration()
		check(report.State == pb.LeaseState_LEASE_STATE_HELD, "a lease is %v", report.State)
		check(left > 0 && left <= keptTTL, "%v left of %v", left, keptTTL)
	}
	go w.heartbeats.run(stop)
}

func watchesFromSecondConnection(w *world) {
	w.watch = open(w.ctx, w.reader, &pb.WatchRequest{Services: storySelection}, nil)
	w.watch.synced()
	check(len(w.watch.held) == len(orders), "the snapshot holds %d", len(w.watch.held))
	for _, request := range orders {
		instance := w.watch.held["orders/"+request.Id]
		check(instance != nil, "%s is not in the snapshot", request.Id)
		check(instance.RegisteredRevision != 0 && instance.RegisteredAt.IsValid(), "%s does not say when it came", request.Id)
		instance = proto.CloneOf(instance)
		instance.RegisteredAt, instance.RegisteredRevision, instance.Revision = nil, 0, 0
		wanted := &pb.Instance{
			Service: request.Service, Id: request.Id, Addresses: request.Addresses, Tags: request.Tags, Metadata: request.Metadata,
			Weight: *request.Weight, Locality: request.Locality, Status: pb.InstanceStatus_INSTANCE_STATUS_SERVING,
		}
		check(proto.Equal(instance, wanted), "registered %v, the snapshot says %v", wanted, instance)
	}
}

func (w *world) update(request *pb.UpdateInstanceRequest, fields ...string) *pb.Instance {
	request.UpdateMask = &fieldmaskpb.FieldMask{Paths: fields}
	return must(w.registry().UpdateInstance(w.ctx, request)).Instance
}

func (w *world) drain(service, id string, draining bool) {
	w.update(&pb.UpdateInstanceRequest{Service: service, Id: id, Draining: draining}, "draining")
}

func (w *world) deregister(service, id string) {
	answer := must(w.registry().Deregister(w.ctx, &pb.DeregisterRequest{Service: service, Id: id}))
	check(answer.Removed, "%s/%s was not there", service, id)
}

func seesChange(w *world) {
	began := time.Now()
	answered := w.update(&pb.UpdateInstanceRequest{
		Service: "orders", Id: "o-1", LeaseId: leases["o-1"], Weight: 7, Tags: []string{"v2"}, Metadata: map[string]string{"not": "asked for"},
	}, "weight", "tags")
	seen := w.watch.updated("orders/o-1")
	w.note = fmt.Sprintf(" (%v after it was sent)", time.Since(began).Round(10*time.Microsecond))
	check(proto.Equal(seen, answered), "the writer was told %v, the watcher %v", answered, seen)
	check(seen.Weight == 7 && slices.Equal(seen.Tags, []string{"v2"}), "changed to %v", seen)
	check(seen.Metadata["team"] == "checkout", "a field outside the mask changed: %v", seen.Metadata)
}

func seesDrain(w *world) {
	w.drain("orders", "o-2", true)
	status := w.watch.updated("orders/o-2").Status
	check(status == pb.InstanceStatus_INSTANCE_STATUS_DRAINING, "drained, it is %v", status)
	w.drain("orders", "o-2", false)
	status = w.watch.updated("orders/o-2").Status
	check(status == pb.InstanceStatus_INSTANCE_STATUS_SERVING, "no longer drained, it is %v", status)
}

func seesDeregistration(w *world) {
	w.heartbeats.drop(leases["o-3"])
	goodbye := &pb.DeregisterRequest{Service: "orders", Id: "o-3", LeaseId: leases["o-3"]}
	answer := must(w.registry().Deregister(w.ctx, goodbye))
	check(answer.Removed, "it was not there")
	w.watch.removed("orders/o-3", deregistered, patience)
	check(w.watch.revision >= answer.Revision, "removed at %d, told at %d", answer.Revision, w.watch.revision)

	late := must(w.registry().Deregister(w.ctx, goodbye))
	check(!late.Removed, "a second goodbye removed something")
}

func seesKill(w *world) {
	child := exec.Command(os.Args[0], "victim", w.server.grpc)
	child.Stderr = os.Stderr
	stdout := must(child.StdoutPipe())
	check(child.Start() == nil, "the victim does not start")
	defer child.Wait()
	defer child.Process.Kill()
	w.watch.updated("victims/v-1")
	said := must(bufio.NewReader(stdout).ReadString('\n'))
	check(said == "held\n", "the victim said %q", said)

	killed := time.Now()
	check(child.Process.Kill() == nil, "the victim cannot be killed")
	gone := w.watch.removed("victims/v-1", expired, victimGrace+time.Second+slack).Sub(killed)
	w.note = fmt.Sprintf(" (%v after it)", gone.Round(time.Millisecond))
	check(gone >= victimGrace, "gone %v after the kill, before its grace of %v", gone, victimGrace)
}

func seesExpiry(w *world) {
	kept := w.register(bootOf("batch", "b-1", fadingTTL)).LeaseId
	fading := w.register(bootOf("batch", "b-2", fadingTTL)).LeaseId
	w.watch.updated("batch/b-1")
	w.watch.updated("batch/b-2")
	w.heartbeats.add(kept)
	w.heartbeats.add(fading)
	w.heartbeats.beat()

	last := w.heartbeats.drop(fading)
	at := w.watch.removed("batch/b-2", expired, fadingTTL+time.Second+slack)
	w.note = fmt.Sprintf(" (%v after its last heartbeat)", at.Sub(last.answered).Round(time.Millisecond))
	check(at.Sub(last.sent) >= fadingTTL, "gone %v after its last heartbeat: too early", at.Sub(last.sent))
	check(at.Sub(last.answered) <= fadingTTL+time.Second+slack, "gone %v after its last heartbeat: too late", at.Sub(last.answered))

	listed := must(w.discovery().ListInstances(w.ctx, &pb.ListInstancesRequest{Service: "batch"})).Instances
	check(len(listed) == 1 && listed[0].Id == "b-1", "left are %v", listed)
	one := must(w.discovery().GetInstance(w.ctx, &pb.GetInstanceRequest{Service: "batch", Id: "b-1"}))
	check(one.Lease.GetConnected() && one.Lease.Ttl.AsDuration() == fadingTTL, "what is kept alive has the lease %v", one.Lease)
	select {
	case <-w.heartbeats.done:
		check(false, "the heartbeats stopped: %v", w.heartbeats.err)
	default:
	}
}

func resumes(w *world) {
	orders[2].BootId += "-again"
	w.register(withTTL(orders[2], time.Minute))
	w.watch.updated("orders/o-3")
	w.watch.close()
	before := w.watch

	// Away. Two changes of one instance, a newcomer, one that leaves, and one that comes and goes.
	for _, weight := range []uint32{8, 9} {
		w.update(&pb.UpdateInstanceRequest{Service: "orders", Id: "o-1", Weight: weight}, "weight")
	}
	w.register(bootOf("orders", "o-4", time.Minute))
	w.register(bootOf("orders", "o-5", time.Minute))
	w.deregister("orders", "o-5")
	w.deregister("orders", "o-3")

	must(0, w.reader.Close())
	w.reader = connect(w.server.grpc)
	request := &pb.WatchRequest{Services: storySelection, ResumeToken: before.token}
	w.watch = open(w.ctx, w.reader, request, before)
	w.watch.synced()
	check(w.watch.reset == pb.ResetReason_RESET_REASON_UNSPECIFIED, "reset: %v", w.watch.reset)
	missed := map[string]*pb.Change{}
	for _, change := range w.watch.changes {
		key, _ := nameOf(change.Change)
		check(missed[key] == nil, "told twice of %s", key)
		missed[key] = change.Change
	}
	w.watch.changes = nil
	check(len(missed) == 3, "missed three changes, was told of %v", missed)
	check(missed["orders/o-1"].GetUpdated().GetWeight() == 9, "o-1: %v", missed["orders/o-1"])
	check(missed["orders/o-4"].GetUpdated() != nil, "o-4: %v", missed["orders/o-4"])
	check(missed["orders/o-3"].GetRemoved().GetReason() == deregistered, "o-3: %v", missed["orders/o-3"])

	// Whatever else were still to come would come before this.
	w.update(&pb.UpdateInstanceRequest{Service: "orders", Id: "o-1", Weight: 11}, "weight")
	check(w.watch.updated("orders/o-1").Weight == 11, "something else came first")
}

func withTTL(request *pb.RegisterRequest, ttl time.Duration) *pb.RegisterRequest {
	request.Ttl = durationpb.New(ttl)
	return request
}
