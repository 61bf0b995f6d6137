package main

import (
	"context"
	"fmt"
	"time"

	pb "callboard.dev/proto/callboard/v1"
	"google.golang.org/grpc"
)

// watch is an open Watch stream and the instances known from it. It checks every message: revisions strictly increase, and
// no step names an instance twice.
type watch struct {
	instances map[string]*pb.Instance // by service/id
	revision  uint64
	token     []byte
	reset     pb.ResetReason // reason of the last Reset
	notice    pb.Notice      // the last Notice

	cancel   context.CancelFunc
	arrivals chan arrival
	snapshot map[string]*pb.Instance // of an incomplete snapshot; nil when none is expected
	step     map[string]*pb.Change   // changes of an incomplete step
	changes  []seen                  // not yet returned by change
}

type arrival struct {
	message *pb.WatchResponse
	err     error
	at      time.Time
}

// seen is a change with its time of arrival.
type seen struct {
	*pb.Change
	at time.Time
}

// open starts a watch. With a resume token in the request it continues from the state of `before`.
func open(ctx context.Context, conn *grpc.ClientConn, request *pb.WatchRequest, before *watch) *watch {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := pb.NewDiscoveryServiceClient(conn).Watch(ctx, request)
	check(err == nil, "watch: %v", err)
	w := &watch{cancel: cancel, arrivals: make(chan arrival, 1000), step: map[string]*pb.Change{}}
	if before == nil {
		w.snapshot = map[string]*pb.Instance{}
	} else {
		w.instances, w.revision = before.instances, before.revision
	}
	go func() {
		defer close(w.arrivals)
		for {
			message, err := stream.Recv()
			w.arrivals <- arrival{message, err, time.Now()}
			if err != nil {
				return
			}
		}
	}()
	return w
}

// next handles and returns one message, or returns the error that ended the stream.
func (w *watch) next(within time.Duration) (*pb.WatchResponse, error) {
	select {
	case a, ok := <-w.arrivals:
		if !ok {
			return nil, fmt.Errorf("the watch has ended")
		}
		if a.err == nil {
			w.handle(a)
		}
		return a.message, a.err
	case <-time.After(within):
		panic(failure(fmt.Sprintf("no message on the watch within %v", within)))
	}
}

func (w *watch) handle(a arrival) {
	switch m := a.message.Message.(type) {
	case *pb.WatchResponse_Reset_:
		w.reset, w.revision, w.snapshot = m.Reset_.Reason, 0, map[string]*pb.Instance{}
	case *pb.WatchResponse_Snapshot:
		check(w.snapshot != nil, "a snapshot without a reset before it")
		for _, instance := range m.Snapshot.Instances {
			key := instance.Service + "/" + instance.Id
			check(w.snapshot[key] == nil, "%s is in the snapshot twice", key)
			w.snapshot[key] = instance
		}
	case *pb.WatchResponse_Synced:
		if w.snapshot != nil {
			w.instances, w.snapshot = w.snapshot, nil
		}
		check(m.Synced.Revision >= w.revision, "synced at %d after %d", m.Synced.Revision, w.revision)
		w.advance(m.Synced.Revision, m.Synced.ResumeToken)
	case *pb.WatchResponse_Changes:
		w.apply(m.Changes, a.at)
	case *pb.WatchResponse_Bookmark:
		check(m.Bookmark.Revision > w.revision, "a bookmark at %d after %d", m.Bookmark.Revision, w.revision)
		w.advance(m.Bookmark.Revision, m.Bookmark.ResumeToken)
	case *pb.WatchResponse_Notice:
		w.notice = m.Notice
	default:
		check(false, "an empty message")
	}
}

// advance sets the revision and the resume token.
func (w *watch) advance(revision uint64, token []byte) {
	check(revision != 0 && len(token) != 0, "revision %d with a token of %d bytes", revision, len(token))
	w.revision, w.token = revision, token
}

// apply collects the changes of a step, and applies them once the step is complete.
func (w *watch) apply(m *pb.Changes, at time.Time) {
	for _, change := range m.Changes {
		key, revision := nameOf(change)
		check(w.step[key] == nil, "%s is in one step twice", key)
		check(revision > w.revision, "%s changed at %d, but the watch is already at %d", key, revision, w.revision)
		w.step[key] = change
		w.changes = append(w.changes, seen{change, at})
	}
	if m.Revision == 0 {
		return
	}
	check(m.Revision > w.revision, "changes at %d after %d", m.Revision, w.revision)
	for key, change := range w.step {
		_, revision := nameOf(change)
		check(revision <= m.Revision, "%s changed at %d, after its step at %d", key, revision, m.Revision)
		if gone := change.GetRemoved(); gone != nil {
			check(w.instances[key] != nil, "%s is removed, but was not known", key)
			delete(w.instances, key)
		} else {
			w.instances[key] = change.GetUpdated()
		}
	}
	clear(w.step)
	w.advance(m.Revision, m.ResumeToken)
}

func nameOf(change *pb.Change) (key string, revision uint64) {
	if gone := change.GetRemoved(); gone != nil {
		return gone.Service + "/" + gone.Id, gone.Revision
	}
	instance := change.GetUpdated()
	return instance.GetService() + "/" + instance.GetId(), instance.GetRevision()
}

// synced reads up to the next Synced.
func (w *watch) synced() {
	for {
		message, err := w.next(eventTimeout)
		check(err == nil, "before synced: %v", err)
		if message.GetSynced() != nil {
			return
		}
	}
}

// change returns the next change once its step is complete, and fails after `within`.
func (w *watch) change(within time.Duration) seen {
	deadline := time.Now().Add(within)
	for len(w.changes) == 0 || len(w.step) > 0 {
		_, err := w.next(time.Until(deadline))
		check(err == nil, "while waiting for a change: %v", err)
	}
	first := w.changes[0]
	w.changes = w.changes[1:]
	return first
}

// updated checks that the next change is an update of this instance.
func (w *watch) updated(key string) *pb.Instance {
	change := w.change(eventTimeout)
	name, _ := nameOf(change.Change)
	check(change.GetUpdated() != nil && name == key, "expected an update of %s, got %v", key, change.Change)
	return change.GetUpdated()
}

// removed checks that the next change is this removal, and returns its time of arrival.
func (w *watch) removed(key string, reason pb.RemovalReason, within time.Duration) time.Time {
	change := w.change(within)
	name, _ := nameOf(change.Change)
	check(name == key && change.GetRemoved().GetReason() == reason, "expected %s to be removed with %v, got %v", key, reason, change.Change)
	return change.at
}

// close cancels the stream and waits for its end.
func (w *watch) close() {
	w.cancel()
	for range w.arrivals {
	}
}
