// A client that speaks to a real callboard with nothing but generated stubs. README.md, one directory up, lists its steps.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"time"

	pb "callboard.dev/proto/callboard/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	patience = 5 * time.Second        // how long anything that should happen at once may take
	slack    = 100 * time.Millisecond // what measuring from outside may add
)

// failure is what a step panics with, so that a step reads as a list of what must be so.
type failure string

func check(ok bool, format string, args ...any) {
	if !ok {
		panic(failure(fmt.Sprintf(format, args...)))
	}
}

func must[T any](value T, err error) T {
	check(err == nil, "%v", err)
	return value
}

// world is what the steps hand on to each other.
type world struct {
	ctx    context.Context
	server *server
	writer *grpc.ClientConn // registers and heartbeats
	reader *grpc.ClientConn // watches
	heartbeats  *heartbeats
	watch  *watch
	note   string // what a step wants to add to its line
}

func (w *world) registry() pb.RegistryServiceClient   { return pb.NewRegistryServiceClient(w.writer) }
func (w *world) discovery() pb.DiscoveryServiceClient { return pb.NewDiscoveryServiceClient(w.reader) }

type step struct {
	name string
	run  func(*world)
}

var steps = []step{
	{"registers three instances", registersThree},
	{"heartbeats all three on one stream", heartbeatsOnOneStream},
	{"watches from a second connection", watchesFromSecondConnection},
	{"sees a change", seesChange},
	{"sees a drain and its end", seesDrain},
	{"sees a deregistration", seesDeregistration},
	{"sees a kill", seesKill},
	{"sees an expiry, in time", seesExpiry},
	{"resumes with its token", resumes},
	{"is told of a malformed token", malformedToken},
	{"is reset where the token is of another selector", tokenOfOtherSelector},
	{"is told of an unknown lease", unknownLease},
	{"is refused a live id, then takes it over", takesOver},
	{"watches through a filter", filters},
	{"watches a service before it exists", watchesBeforeRegistration},
	{"asks health", health},
	{"watches the health of a service that comes and goes", watchesHealth},
	{"reads the contract by reflection", reflects},
	{"speaks TLS on both sides, through a renewed certificate", speaksTLS},
	{"is refused without a certificate, or with a stranger's", isRefusedWithoutCertificate},
	{"is told of the shutdown, and the server ends well", shutsDown},
}

func connect(address string) *grpc.ClientConn {
	deadline := func(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn,
		invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return invoke(ctx, method, request, reply, conn, options...)
	}
	return must(grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(deadline)))
}

// bootOf makes a registration as one start of a program sends it.
func bootOf(service, id string, ttl time.Duration) *pb.RegisterRequest {
	return &pb.RegisterRequest{
		Service:   service,
		Id:        id,
		BootId:    rand.Text(),
		Addresses: []*pb.Address{{Host: "127.0.0.1", Port: 9000}},
		Ttl:       durationpb.New(ttl),
	}
}

func (w *world) register(request *pb.RegisterRequest) *pb.RegisterResponse {
	answer := must(w.registry().Register(w.ctx, request))
	check(len(answer.LeaseId) == 16, "a lease of %d bytes", len(answer.LeaseId))
	return answer
}

// try runs a step and says what it failed with.
func (s step) try(w *world) (err error) {
	defer func() {
		switch reason := recover().(type) {
		case nil:
		case failure:
			err = fmt.Errorf("%s", reason)
		default:
			err = fmt.Errorf("panicked: %v", reason)
		}
	}()
	s.run(w)
	return nil
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "victim" {
		victim(os.Args[2])
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	server, err := startServer(os.Getenv("CALLBOARD"))
	if err != nil {
		fmt.Fprintf(os.Stderr, "the server did not start: %v\n", err)
		os.Exit(1)
	}
	w := &world{ctx: ctx, server: server, writer: connect(server.grpc), reader: connect(server.grpc)}

	failed := 0
	for number, step := range steps {
		w.note = ""
		if err := step.try(w); err != nil {
			failed++
			fmt.Printf("FAILED %2d %s: %v\n", number+1, step.name, err)
		} else {
			fmt.Printf("ok     %2d %s%s\n", number+1, step.name, w.note)
		}
	}
	fmt.Printf("%d passed, %d failed\n", len(steps)-failed, failed)
	if failed > 0 {
		server.kill()
		fmt.Fprintf(os.Stderr, "the server said:\n%s", server.log.String())
		os.Exit(1)
	}
}
