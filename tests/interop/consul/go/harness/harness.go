// Package harness has what the Go programs of this suite share: the server under test, a target of health checks, steps, and
// assertions.
package harness

import (
	"fmt"
	"os"
	"time"
)

// EventTimeout is the limit for an event that is expected immediately, or after the next probe. Checks run every second.
const EventTimeout = 5 * time.Second

// failure is the panic value of a failed check. Checks panic so that steps need no error handling.
type failure string

func Check(ok bool, format string, args ...any) {
	if !ok {
		panic(failure(fmt.Sprintf(format, args...)))
	}
}

func Must[T any](value T, err error) T {
	Check(err == nil, "%v", err)
	return value
}

// NoError is Must for calls that return only an error.
func NoError(err error) {
	Check(err == nil, "%v", err)
}

// Eventually repeats state until it returns true. The failure message contains the last value that it returned.
func Eventually(within time.Duration, wanted string, state func() (ok bool, value any)) {
	for deadline := time.Now().Add(within); ; time.Sleep(25 * time.Millisecond) {
		ok, value := state()
		if ok {
			return
		}
		Check(time.Now().Before(deadline), "not within %v: %s; got %+v", within, wanted, value)
	}
}

type Step struct {
	Name string
	Run  func()
}

// try runs a step and returns its failure as an error.
func (s Step) try() (err error) {
	defer func() {
		switch reason := recover().(type) {
		case nil:
		case failure:
			err = fmt.Errorf("%s", reason)
		default:
			err = fmt.Errorf("panicked: %v", reason)
		}
	}()
	s.Run()
	return nil
}

// RunSteps runs the steps in order, prints a line for each, and kills the server. It continues after a failed step. If a
// step failed, it ends the program with exit code 1.
func RunSteps(server *Server, steps []Step) {
	failed := 0
	for _, step := range steps {
		began := time.Now()
		if err := step.try(); err != nil {
			failed++
			fmt.Printf("FAILED  %s: %v\n", step.Name, err)
		} else {
			fmt.Printf("ok      %s (%d ms)\n", step.Name, time.Since(began).Milliseconds())
		}
	}
	server.kill()
	fmt.Printf("%d passed, %d failed\n", len(steps)-failed, failed)
	if failed > 0 {
		fmt.Fprintf(os.Stderr, "log of the server:\n%s", server.log.String())
		os.Exit(1)
	}
}
