package stage

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Server is the process under test, at addresses of its own choice.
type Server struct {
	HTTP   string
	log    bytes.Buffer // to be read once it has ended
	cmd    *exec.Cmd
	exited chan struct{} // closed once it has ended
}

// Start ends the program where the server does not start: without it there is nothing to test.
func Start() *Server {
	server, err := StartAt("127.0.0.1:0")
	if err != nil {
		fmt.Fprintf(os.Stderr, "the server did not start: %v\n", err)
		os.Exit(1)
	}
	return server
}

func StartAt(http string) (*Server, error) {
	s := &Server{exited: make(chan struct{})}
	s.cmd = exec.Command(os.Getenv("CALLBOARD"),
		"serve", "--grpc", "127.0.0.1:0", "--http", http, "--dns", "127.0.0.1:0", "-o", "json")
	s.cmd.Stderr = &s.log
	// Whatever becomes of this program, its server does not outlive it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	line := make(chan []byte, 1)
	go func() {
		scanner := bufio.NewScanner(stdout)
		if scanner.Scan() {
			line <- bytes.Clone(scanner.Bytes())
		}
		for scanner.Scan() {
		}
		s.cmd.Wait() // the exit code stays in ProcessState
		close(s.exited)
	}()
	select {
	case said := <-line:
		var ready struct{ HTTP string }
		if err := json.Unmarshal(said, &ready); err != nil || ready.HTTP == "" {
			s.kill()
			return nil, fmt.Errorf("it said %q, not its addresses", said)
		}
		s.HTTP = ready.HTTP
		return s, nil
	case <-s.exited:
		return nil, fmt.Errorf("it ended with %v: %s", s.cmd.ProcessState, s.log.String())
	case <-time.After(2 * Patience):
		s.kill()
		return nil, fmt.Errorf("it did not say its addresses: %s", s.log.String())
	}
}

// Terminate asks it to end and wants that done well, in time.
func (s *Server) Terminate() {
	asked := time.Now()
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		code := s.cmd.ProcessState.ExitCode()
		Check(code == 0, "exit code %d after %v", code, time.Since(asked))
	case <-time.After(6 * time.Second):
		s.kill()
		Check(false, "still running 6 s after SIGTERM")
	}
}

func (s *Server) kill() {
	s.cmd.Process.Kill()
	<-s.exited
}

// Environment is this program's, with the server's address where Consul's client looks for it, or without one.
func Environment(http string) []string {
	var environment []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "CONSUL_") {
			environment = append(environment, variable)
		}
	}
	if http != "" {
		environment = append(environment, "CONSUL_HTTP_ADDR="+http)
	}
	return environment
}
