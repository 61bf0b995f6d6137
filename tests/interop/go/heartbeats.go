package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "callboard.dev/proto/callboard/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// heartbeats keeps any number of leases alive on one stream.
type heartbeats struct {
	stream grpc.BidiStreamingClient[pb.KeepAliveRequest, pb.KeepAliveResponse]

	mu     sync.Mutex // held for a whole beat: a lease that was dropped is in no later one
	leases [][]byte
	last   beat
	err    error // why it stopped
	done   chan struct{}
}

// beat is one message there and back.
type beat struct {
	sent, answered time.Time
	reports        []*pb.LeaseReport
}

func newHeartbeats(ctx context.Context, conn *grpc.ClientConn, leases ...[]byte) *heartbeats {
	stream := must(pb.NewRegistryServiceClient(conn).KeepAlive(ctx))
	return &heartbeats{stream: stream, leases: leases, done: make(chan struct{})}
}

// beat sends one message for all leases and waits for its answer.
func (p *heartbeats) beat() beat {
	p.mu.Lock()
	defer p.mu.Unlock()
	request := &pb.KeepAliveRequest{}
	for _, lease := range p.leases {
		request.Heartbeats = append(request.Heartbeats, &pb.Heartbeat{LeaseId: lease})
	}
	b := beat{sent: time.Now()}
	check(p.stream.Send(request) == nil, "the stream does not take heartbeats")
	answer := must(p.stream.Recv())
	b.answered, b.reports = time.Now(), answer.Leases
	check(answer.Notice == pb.Notice_NOTICE_UNSPECIFIED, "a notice: %v", answer.Notice)
	check(len(b.reports) == len(p.leases), "%d reports for %d heartbeats", len(b.reports), len(p.leases))
	for i, report := range b.reports {
		check(bytes.Equal(report.LeaseId, p.leases[i]), "report %d is of another lease", i)
	}
	p.last = b
	return b
}

// one beats for a single lease and tells its state.
func (p *heartbeats) one(lease []byte) pb.LeaseState {
	p.leases = [][]byte{lease}
	return p.beat().reports[0].State
}

// run beats until `stop` is called, and wants each lease to be held each time.
func (p *heartbeats) run(stop <-chan struct{}) {
	defer close(p.done)
	defer func() {
		if reason := recover(); reason != nil {
			p.err = fmt.Errorf("%v", reason)
		}
	}()
	ticker := time.NewTicker(300 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			for _, report := range p.beat().reports {
				check(report.State == pb.LeaseState_LEASE_STATE_HELD, "a lease that was kept alive is %v", report.State)
			}
		}
	}
}

func (p *heartbeats) add(lease []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leases = append(p.leases, lease)
}

// drop heartbeats a lease no more, and tells of its last time.
func (p *heartbeats) drop(lease []byte) beat {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leases = slices.DeleteFunc(p.leases, func(other []byte) bool { return bytes.Equal(other, lease) })
	return p.last
}

const victimGrace = 300 * time.Millisecond

// victim is what the program does in its other life: it registers, says so, and heartbeats until it is killed.
func victim(address string) {
	conn := connect(address)
	request := bootOf("victims", "v-1", 10*time.Second)
	request.DisconnectGrace = durationpb.New(victimGrace)
	lease := must(pb.NewRegistryServiceClient(conn).Register(context.Background(), request)).LeaseId
	p := newHeartbeats(context.Background(), conn, lease)
	check(p.one(lease) == pb.LeaseState_LEASE_STATE_HELD, "the victim's lease is not held")
	fmt.Println("held")
	p.run(nil)
}
