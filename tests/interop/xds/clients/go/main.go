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
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds"
)

const (
	method       = "/callboard.interop.Echo/Call"
	callTimeout  = 5 * time.Second
	maxErrorText = 200
	maxErrors    = 20
)

// tally counts the calls by backend and the failed calls by error.
type tally struct {
	mutex    sync.Mutex
	backends map[string]int
	errors   map[string]int
}

func newTally() *tally {
	return &tally{backends: map[string]int{}, errors: map[string]int{}}
}

func (t *tally) call(connection *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	var request, response []byte
	err := connection.Invoke(ctx, method, &request, &response, grpc.ForceCodec(wire.Codec{}))
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if err == nil {
		t.backends[string(response)]++
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

func callMany(connection *grpc.ClientConn, calls, parallel int) {
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
				counts.call(connection)
			}
		}()
	}
	callers.Wait()
	counts.print("called")
}

// load is a background load of a fixed rate.
type load struct {
	counts *tally
	stop   chan struct{}
	calls  sync.WaitGroup
}

func startLoad(connection *grpc.ClientConn, rate int) *load {
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
					running.counts.call(connection)
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
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		words := strings.Fields(commands.Text())
		switch {
		case len(words) == 3 && words[0] == "call":
			callMany(connection, number(words[1]), number(words[2]))
		case len(words) == 2 && words[0] == "start" && running == nil:
			running = startLoad(connection, number(words[1]))
		case len(words) == 1 && words[0] == "stats" && running != nil:
			running.counts.print("stats")
		case len(words) == 1 && words[0] == "stop" && running != nil:
			close(running.stop)
			running.calls.Wait()
			running.counts.print("stopped")
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
