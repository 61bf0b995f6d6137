// A gRPC server that answers every call of /callboard.interop.Echo/Call with its id. It takes commands on stdin, one a line:
//
//	stats     prints {"calls":n,"first_ns":t,"last_ns":t}: calls since the last reset, Unix times of the first and the last
//	reset     forgets them; prints the same line, all zero
//	delay MS  delays each response by MS milliseconds from now on; prints {"delay_ms":MS}
//	quit      ends the program, as does the end of stdin
//
// The first line on stdout is {"port":n}: the port of 127.0.0.1, and of ::1, on which it listens.
package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"callboard.dev/interop/xds/wire"
	"google.golang.org/grpc"
)

// stats counts the calls since the last reset.
type stats struct {
	mutex sync.Mutex
	Calls int   `json:"calls"`
	First int64 `json:"first_ns"`
	Last  int64 `json:"last_ns"`
}

func (s *stats) add() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.Last = time.Now().UnixNano()
	if s.Calls == 0 {
		s.First = s.Last
	}
	s.Calls++
}

func (s *stats) print() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	wire.PrintLine(s)
}

func (s *stats) reset() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.Calls, s.First, s.Last = 0, 0, 0
}

// backend is the server of one id.
type backend struct {
	id     []byte
	counts stats
	delay  atomic.Int64 // milliseconds
}

func (b *backend) call(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var request []byte
	if err := decode(&request); err != nil {
		return nil, err
	}
	b.counts.add()
	if delay := b.delay.Load(); delay > 0 {
		select {
		case <-time.After(time.Duration(delay) * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &b.id, nil
}

// listen opens listeners on one free port of both loopback addresses.
func listen() (ipv4, ipv6 net.Listener, err error) {
	for range 20 {
		if ipv4, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
			return nil, nil, err
		}
		port := ipv4.Addr().(*net.TCPAddr).Port
		if ipv6, err = net.Listen("tcp6", fmt.Sprintf("[::1]:%d", port)); err == nil {
			return ipv4, ipv6, nil
		}
		ipv4.Close()
	}
	return nil, nil, err
}

func main() {
	if len(os.Args) != 2 {
		fail("usage: backend ID")
	}
	ipv4, ipv6, err := listen()
	if err != nil {
		fail(err)
	}
	self := &backend{id: []byte(os.Args[1])}
	server := grpc.NewServer(grpc.ForceServerCodec(wire.Codec{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "callboard.interop.Echo",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Call", Handler: self.call}},
	}, self)
	for _, listener := range []net.Listener{ipv4, ipv6} {
		go func() { fail(server.Serve(listener)) }()
	}
	wire.PrintLine(map[string]int{"port": ipv4.Addr().(*net.TCPAddr).Port})
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		words := strings.Fields(commands.Text())
		switch {
		case len(words) == 1 && words[0] == "stats":
			self.counts.print()
		case len(words) == 1 && words[0] == "reset":
			self.counts.reset()
			self.counts.print()
		case len(words) == 2 && words[0] == "delay":
			delay, err := strconv.ParseInt(words[1], 10, 64)
			if err != nil {
				fail(err)
			}
			self.delay.Store(delay)
			wire.PrintLine(map[string]int64{"delay_ms": delay})
		case len(words) == 1 && words[0] == "quit":
			return
		default:
			fail(fmt.Errorf("invalid command %q", commands.Text()))
		}
	}
}

func fail(reason any) {
	fmt.Fprintln(os.Stderr, "backend:", reason)
	os.Exit(1)
}
