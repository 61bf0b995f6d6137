// Tests a real callboard server with grpc-go and generated stubs. README.md, one directory up, lists the steps.
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
	eventTimeout = 5 * time.Second        // limit for an event that is expected immediately
	tolerance    = 100 * time.Millisecond // allowed measurement error of the client
)

// failure is the panic value of a failed check. Checks panic so that steps need no error handling.
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

// fixture is the state that the steps share.
type fixture struct {
	ctx        context.Context
	server     *server
	writer     *grpc.ClientConn // for registrations and heartbeats
	reader     *grpc.ClientConn // for watches
	heartbeats *heartbeats
	watch      *watch
	note       string // optional addition to the printed line of a step
}

func (w *fixture) registry() pb.RegistryServiceClient { return pb.NewRegistryServiceClient(w.writer) }
func (w *fixture) discovery() pb.DiscoveryServiceClient {
	return pb.NewDiscoveryServiceClient(w.reader)
}

type step struct {
	name string
	run  func(*fixture)
}

var steps = []step{
	{"registers three instances", registersThree},
	{"renews all leases on one stream", heartbeatsOnOneStream},
	{"watches from a second connection", watchesFromSecondConnection},
	{"sees an update of weight and tags", seesChange},
	{"sees an operator's drain and its end", seesDrain},
	{"sees a deregistration", seesDeregistration},
	{"sees the removal of a killed process", seesKill},
	{"sees the expiry of a lease in time", seesExpiry},
	{"resumes a watch with its token", resumes},
	{"gets an error for a malformed resume token", malformedToken},
	{"gets a reset for the token of another selector", tokenOfOtherSelector},
	{"gets UNKNOWN for an unknown lease", unknownLease},
	{"gets an error for an id in use, then replaces its instance", takesOver},
	{"watches with a filter", filters},
	{"watches a service before its first registration", watchesBeforeRegistration},
	{"checks health", health},
	{"watches the health of a service until its removal", watchesHealth},
	{"reads the contract by reflection", reflects},
	{"matches values of headers as the registry does", headerPatterns},
	{"uses mutual TLS, before and after a certificate renewal", speaksTLS},
	{"gets an error without a trusted certificate", needsTrustedCertificate},
	{"receives shutdown notices, and the server exits with code 0", shutsDown},
}

func connect(address string) *grpc.ClientConn {
	deadline := func(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn,
		invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		ctx, cancel := context.WithTimeout(ctx, eventTimeout)
		defer cancel()
		return invoke(ctx, method, request, reply, conn, options...)
	}
	return must(grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(deadline)))
}

// bootOf returns a registration with a new boot id, as a newly started program sends it.
func bootOf(service, id string, ttl time.Duration) *pb.RegisterRequest {
	return &pb.RegisterRequest{
		Service:   service,
		Id:        id,
		BootId:    rand.Text(),
		Addresses: []*pb.Address{{Host: "127.0.0.1", Port: 9000}},
		Ttl:       durationpb.New(ttl),
	}
}

func (w *fixture) register(request *pb.RegisterRequest) *pb.RegisterResponse {
	answer := must(w.registry().Register(w.ctx, request))
	check(len(answer.LeaseId) == 16, "the lease id has %d bytes, not 16", len(answer.LeaseId))
	return answer
}

// try runs a step and returns its failure as an error.
func (s step) try(w *fixture) (err error) {
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
	if len(os.Args) == 4 && os.Args[1] == "follow" {
		follow(os.Args[2], os.Args[3])
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	server, err := startServer(os.Getenv("CALLBOARD"))
	if err != nil {
		fmt.Fprintf(os.Stderr, "the server did not start: %v\n", err)
		os.Exit(1)
	}
	w := &fixture{ctx: ctx, server: server, writer: connect(server.grpc), reader: connect(server.grpc)}

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
		fmt.Fprintf(os.Stderr, "log of the server:\n%s", server.log.String())
		os.Exit(1)
	}
}
