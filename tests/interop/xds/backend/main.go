// A gRPC server that answers the calls of all methods with its id. The answer of a method `…/Park` is the first message of a
// stream, which stays open until the client ends it. The program takes commands on stdin, one a line:
//
//	stats              prints counts since the last reset, as in stats below
//	reset              resets them; prints the same line
//	delay MS           delays each response by MS milliseconds from now on; prints {"delay_ms":MS}
//	fail PERCENT CODE  fails this part of the calls, chosen at random, with this status; prints {"fail_percent":PERCENT}
//	quit               ends the program, as does the end of stdin
//
// The first line on stdout is {"port":n}: the port of 127.0.0.1, and of ::1, on which it listens.
package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"callboard.dev/interop/xds/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// stats are counts since the last reset, except for the streams.
type stats struct {
	mutex       sync.Mutex
	Calls       int   `json:"calls"`
	Failed      int   `json:"failed"`      // of these calls
	First       int64 `json:"first_ns"`    // Unix time of the first call
	Last        int64 `json:"last_ns"`     // and of the last
	Busy        int64 `json:"busy_ns"`     // sum of the times of the calls
	Connections int   `json:"connections"` // accepted TCP connections
	Streams     int   `json:"streams"`     // open now

	Methods map[string]*methodStats `json:"methods"`
}

// methodStats counts the calls of one method.
type methodStats struct {
	Calls       int `json:"calls"`
	Connections int `json:"connections"` // that they came on
	peers       map[string]bool
}

func (s *stats) begin(method, peer string) time.Time {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	calls := s.Methods[method]
	if calls == nil {
		calls = &methodStats{peers: map[string]bool{}}
		s.Methods[method] = calls
	}
	calls.Calls++
	calls.peers[peer] = true
	calls.Connections = len(calls.peers)
	now := time.Now()
	s.Last = now.UnixNano()
	if s.Calls == 0 {
		s.First = s.Last
	}
	s.Calls++
	return now
}

func (s *stats) end(began time.Time, failed bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.Busy += int64(time.Since(began))
	if failed {
		s.Failed++
	}
}

func (s *stats) add(counter *int, difference int) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	*counter += difference
}

func (s *stats) print() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	wire.PrintLine(s)
}

func (s *stats) reset() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.Calls, s.Failed, s.First, s.Last, s.Busy, s.Connections = 0, 0, 0, 0, 0, 0
	s.Methods = map[string]*methodStats{}
}

// failure is the status of a part of the calls.
type failure struct {
	percent float64
	code    codes.Code
}

// backend is the server of one id.
type backend struct {
	id      []byte
	counts  stats
	delay   atomic.Int64 // milliseconds
	failure atomic.Pointer[failure]
}

func (b *backend) handle(_ any, stream grpc.ServerStream) error {
	var request []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	method, _ := grpc.MethodFromServerStream(stream)
	client, _ := peer.FromContext(stream.Context())
	began := b.counts.begin(method, client.Addr.String())
	err := b.answer(stream)
	b.counts.end(began, err != nil)
	if err != nil || !strings.HasSuffix(method, "/Park") {
		return err
	}
	b.counts.add(&b.counts.Streams, 1)
	defer b.counts.add(&b.counts.Streams, -1)
	<-stream.Context().Done()
	return stream.Context().Err()
}

func (b *backend) answer(stream grpc.ServerStream) error {
	time.Sleep(time.Duration(b.delay.Load()) * time.Millisecond)
	if failure := b.failure.Load(); failure != nil && rand.Float64()*100 < failure.percent {
		return status.Errorf(failure.code, "failed by %s", b.id)
	}
	return stream.SendMsg(&b.id)
}

// countingListener counts the connections that it accepts.
type countingListener struct {
	net.Listener
	counts *stats
}

func (l countingListener) Accept() (net.Conn, error) {
	connection, err := l.Listener.Accept()
	if err == nil {
		l.counts.add(&l.counts.Connections, 1)
	}
	return connection, err
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
	self.counts.reset()
	server := grpc.NewServer(grpc.ForceServerCodec(wire.Codec{}), grpc.UnknownServiceHandler(self.handle))
	for _, listener := range []net.Listener{ipv4, ipv6} {
		go func() { fail(server.Serve(countingListener{listener, &self.counts})) }()
	}
	wire.PrintLine(map[string]int{"port": ipv4.Addr().(*net.TCPAddr).Port})
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		if words := strings.Fields(commands.Text()); !self.run(words) {
			return
		}
	}
}

// run runs a command, and returns false if the program ends.
func (b *backend) run(words []string) bool {
	switch {
	case len(words) == 1 && words[0] == "stats":
		b.counts.print()
	case len(words) == 1 && words[0] == "reset":
		b.counts.reset()
		b.counts.print()
	case len(words) == 2 && words[0] == "delay":
		delay := number(words[1])
		b.delay.Store(int64(delay))
		wire.PrintLine(map[string]float64{"delay_ms": delay})
	case len(words) == 3 && words[0] == "fail":
		failure := &failure{percent: number(words[1])}
		if err := failure.code.UnmarshalJSON([]byte(strconv.Quote(words[2]))); err != nil {
			fail(err)
		}
		b.failure.Store(failure)
		wire.PrintLine(map[string]float64{"fail_percent": failure.percent})
	case len(words) == 1 && words[0] == "quit":
		return false
	default:
		fail(fmt.Errorf("invalid command %q", words))
	}
	return true
}

func number(word string) float64 {
	value, err := strconv.ParseFloat(word, 64)
	if err != nil {
		fail(err)
	}
	return value
}

func fail(reason any) {
	fmt.Fprintln(os.Stderr, "backend:", reason)
	os.Exit(1)
}
