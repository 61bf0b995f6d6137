// Package stage is what the programs beside it stand on: the server under test, a service whose health can be switched,
// steps, and patience.
package stage

import (
	"fmt"
	"os"
	"time"
)

// Patience is how long anything may take that should happen at once, or at the next probe: checks run every second.
const Patience = 5 * time.Second

// failure is what a step panics with, so that a step reads as a list of what must be so.
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

// Fine is Must for calls that answer nothing.
func Fine(err error) {
	Check(err == nil, "%v", err)
}

// Eventually asks until it is so. what describes the state at each try; the last one goes into the failure.
func Eventually(within time.Duration, wanted string, state func() (so bool, what any)) {
	for deadline := time.Now().Add(within); ; time.Sleep(25 * time.Millisecond) {
		so, what := state()
		if so {
			return
		}
		Check(time.Now().Before(deadline), "not within %v: %s; it is %+v", within, wanted, what)
	}
}

type Step struct {
	Name string
	Run  func()
}

// try runs a step and says what it failed with.
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

// Perform runs the steps one after the other, a line each, and ends the program. A failed step stops none that follow.
func Perform(server *Server, steps []Step) {
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
		fmt.Fprintf(os.Stderr, "the server said:\n%s", server.log.String())
		os.Exit(1)
	}
}
