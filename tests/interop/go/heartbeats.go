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

// heartbeats renews any number of leases on one stream.
type heartbeats struct {
	stream grpc.BidiStreamingClient[pb.KeepAliveRequest, pb.KeepAliveResponse]

	mu     sync.Mutex // held during a whole renewal, so that no later one includes a dropped lease
	leases [][]byte
	last   renewal
	err    error // the failure that ended run
	done   chan struct{}
}

// renewal is one request and its response.
type renewal struct {
	sent, answered time.Time
	reports        []*pb.LeaseReport
}

func newHeartbeats(ctx context.Context, conn *grpc.ClientConn, leases ...[]byte) *heartbeats {
	stream := must(pb.NewRegistryServiceClient(conn).KeepAlive(ctx))
	return &heartbeats{stream: stream, leases: leases, done: make(chan struct{})}
}

// renew sends one message for all leases and waits for its response.
func (p *heartbeats) renew() renewal {
	p.mu.Lock()
	defer p.mu.Unlock()
	request := &pb.KeepAliveRequest{}
	for _, lease := range p.leases {
		request.Heartbeats = append(request.Heartbeats, &pb.Heartbeat{LeaseId: lease})
	}
	b := renewal{sent: time.Now()}
	check(p.stream.Send(request) == nil, "sending on the heartbeat stream failed")
	answer := must(p.stream.Recv())
	b.answered, b.reports = time.Now(), answer.Leases
	check(answer.Notice == pb.Notice_NOTICE_UNSPECIFIED, "unexpected notice %v", answer.Notice)
	check(len(b.reports) == len(p.leases), "%d reports for %d heartbeats", len(b.reports), len(p.leases))
	for i, report := range b.reports {
		check(bytes.Equal(report.LeaseId, p.leases[i]), "report %d has another lease id than heartbeat %[1]d", i)
	}
	p.last = b
	return b
}

// state renews this lease alone and returns its state.
func (p *heartbeats) state(lease []byte) pb.LeaseState {
	p.leases = [][]byte{lease}
	return p.renew().reports[0].State
}

// run renews all leases until `stop` is closed, and checks that each lease is held each time.
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
			for _, report := range p.renew().reports {
				check(report.State == pb.LeaseState_LEASE_STATE_HELD, "a renewed lease is %v", report.State)
			}
		}
	}
}

func (p *heartbeats) add(lease []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leases = append(p.leases, lease)
}

// drop excludes a lease from later renewals and returns the last renewal.
func (p *heartbeats) drop(lease []byte) renewal {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leases = slices.DeleteFunc(p.leases, func(other []byte) bool { return bytes.Equal(other, lease) })
	return p.last
}

const victimGrace = 300 * time.Millisecond

// victim is the child process that seesKill kills. It registers, prints a line, and sends heartbeats until then.
func victim(address string) {
	conn := connect(address)
	request := bootOf("victims", "v-1", 10*time.Second)
	request.DisconnectGrace = durationpb.New(victimGrace)
	lease := must(pb.NewRegistryServiceClient(conn).Register(context.Background(), request)).LeaseId
	p := newHeartbeats(context.Background(), conn, lease)
	check(p.state(lease) == pb.LeaseState_LEASE_STATE_HELD, "the lease is not held")
	fmt.Println("held")
	p.run(nil)
}
