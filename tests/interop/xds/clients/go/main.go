// A grpc-go program that knows nothing of Callboard. It takes commands on stdin, one a line, and prints JSON lines. The
// README of the suites has the commands.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"callboard.dev/interop/xds/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds"
)

const (
	maxErrorText = 200
	maxErrors    = 20
)

// settings of the calls of a command.
type settings struct {
	method   string
	deadline time.Duration
	headers  []string // names and values in turn
}

func parseSettings(words []string) settings {
	parsed := settings{method: "/callboard.interop.Echo/Call", deadline: 5 * time.Second}
	for _, word := range words {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "method":
			parsed.method = value
		case "deadline":
			parsed.deadline = time.Duration(number(value)) * time.Millisecond
		case "header":
			header, content, _ := strings.Cut(value, ":")
			parsed.headers = append(parsed.headers, header, content)
		default:
			fmt.Fprintf(os.Stderr, "invalid option %q\n", word)
			os.Exit(2)
		}
	}
	return parsed
}

func (s settings) context() context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), s.headers...)
}

// tally counts the calls by backend and the failed calls by error, and has their times.
type tally struct {
	mutex    sync.Mutex
	backends map[string]int
	errors   map[string]int
	times    map[string][]float64 // milliseconds, by backend
}

func newTally() *tally {
	return &tally{backends: map[string]int{}, errors: map[string]int{}, times: map[string][]float64{}}
}

func (t *tally) call(connection *grpc.ClientConn, s settings) {
	ctx, cancel := context.WithTimeout(s.context(), s.deadline)
	defer cancel()
	var request, response []byte
	began := time.Now()
	err := connection.Invoke(ctx, s.method, &request, &response, grpc.ForceCodec(wire.Codec{}))
	t.add(time.Since(began), response, err)
}

func (t *tally) add(took time.Duration, response []byte, err error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	backend := string(response)
	if err != nil {
		backend = "failed"
	}
	t.times[backend] = append(t.times[backend], float64(took.Microseconds())/1000)
	if err == nil {
		t.backends[backend]++
		return
	}
	text := fmt.Sprintf("%s: %s", codeName(err), status.Convert(err).Message())
	text = text[:min(len(text), maxErrorText)]
	if _, known := t.errors[text]; known || len(t.errors) < maxErrors {
		t.errors[text]++
	}
}

// codeName returns the name of the status code as the specification of gRPC spells it, for example DEADLINE_EXCEEDED.
func codeName(err error) string {
	var name strings.Builder
	for i, letter := range status.Code(err).String() {
		if i > 0 && letter >= 'A' && letter <= 'Z' {
			name.WriteByte('_')
		}
		name.WriteRune(letter)
	}
	return strings.ToUpper(name.String())
}

func (t *tally) print(event string) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	wire.PrintLine(map[string]any{"event": event, "backends": t.backends, "errors": t.errors})
}

func (t *tally) printWithTimes(event string) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	wire.PrintLine(map[string]any{"event": event, "backends": t.backends, "errors": t.errors, "ms": t.times})
}

func callMany(connection *grpc.ClientConn, calls, parallel int, s settings) {
	counts := newTally()
	tokens := make(chan struct{}, calls)
	for range calls {
		tokens <- struct{}{}
	}
	close(tokens)
	var callers sync.WaitGroup
	for range parallel {
		callers.Add(1)
		go func() {
			defer callers.Done()
			for range tokens {
				counts.call(connection, s)
			}
		}()
	}
	callers.Wait()
	counts.printWithTimes("called")
}

// parked are open streams.
type parked []context.CancelFunc

// open opens streams one after the other, each after the first message of the one before.
func (p *parked) open(connection *grpc.ClientConn, streams int, s settings) {
	counts := newTally()
	for range streams {
		ctx, cancel := context.WithCancel(s.context())
		*p = append(*p, cancel)
		began := time.Now()
		response, err := openStream(ctx, connection, s.method)
		counts.add(time.Since(began), response, err)
	}
	counts.printWithTimes("parked")
}

// openStream returns the first message of a new stream.
func openStream(ctx context.Context, connection *grpc.ClientConn, method string) (response []byte, err error) {
	description := &grpc.StreamDesc{ServerStreams: true}
	stream, err := connection.NewStream(ctx, description, method, grpc.ForceCodec(wire.Codec{}))
	if err != nil {
		return nil, err
	}
	// An error of SendMsg is the end of the stream, whose status RecvMsg returns.
	if err = stream.SendMsg(new([]byte)); err == nil {
		err = stream.CloseSend()
	}
	err = stream.RecvMsg(&response)
	return response, err
}

func (p *parked) cancel() {
	for _, cancel := range *p {
		cancel()
	}
	*p = nil
	newTally().print("unparked")
}

// load is a background load of a fixed rate.
type load struct {
	counts *tally
	stop   chan struct{}
	calls  sync.WaitGroup
}

func startLoad(connection *grpc.ClientConn, rate int, s settings) *load {
	running := &load{counts: newTally(), stop: make(chan struct{})}
	running.calls.Add(1)
	go func() {
		defer running.calls.Done()
		ticker := time.NewTicker(time.Second / time.Duration(rate))
		defer ticker.Stop()
		for {
			select {
			case <-running.stop:
				return
			case <-ticker.C:
				running.calls.Add(1)
				go func() {
					defer running.calls.Done()
					running.counts.call(connection, s)
				}()
			}
		}
	}()
	return running
}

func main() {
	// Dial, which the newest version deprecates, is the only function that the old version has.
	connection, err := grpc.Dial(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	wire.PrintLine(map[string]string{"event": "ready", "client": "grpc-go " + grpc.Version})
	var running *load
	var streams parked
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		words := strings.Fields(commands.Text())
		switch {
		case len(words) >= 3 && words[0] == "call":
			callMany(connection, number(words[1]), number(words[2]), parseSettings(words[3:]))
		case len(words) >= 2 && words[0] == "park":
			streams.open(connection, number(words[1]), parseSettings(words[2:]))
		case len(words) == 1 && words[0] == "unpark":
			streams.cancel()
		case len(words) >= 2 && words[0] == "start" && running == nil:
			running = startLoad(connection, number(words[1]), parseSettings(words[2:]))
		case len(words) == 1 && words[0] == "stats" && running != nil:
			running.counts.print("stats")
		case len(words) == 1 && words[0] == "stop" && running != nil:
			close(running.stop)
			running.calls.Wait()
			running.counts.printWithTimes("stopped")
			running = nil
		case len(words) == 1 && words[0] == "quit":
			return
		default:
			fmt.Fprintf(os.Stderr, "invalid command %q\n", commands.Text())
			os.Exit(2)
		}
	}
}

func number(word string) int {
	value, err := strconv.Atoi(word)
	if err != nil || value < 1 {
		fmt.Fprintf(os.Stderr, "invalid number %q\n", word)
		os.Exit(2)
	}
	return value
}
