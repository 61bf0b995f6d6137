package harness

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

// Server is the process under test.
type Server struct {
	HTTP   string
	log    bytes.Buffer // complete once the process has exited
	cmd    *exec.Cmd
	exited chan struct{} // closed once the process has exited
}

// Start starts a server on a port of its own choice. It ends the program if the server does not start.
func Start() *Server {
	server, err := StartAt("127.0.0.1:0")
	if err != nil {
		fmt.Fprintf(os.Stderr, "the server did not start: %v\n", err)
		os.Exit(1)
	}
	return server
}

// StartAt starts a server with this address for its HTTP listener.
func StartAt(http string) (*Server, error) {
	s := &Server{exited: make(chan struct{})}
	s.cmd = exec.Command(os.Getenv("CALLBOARD"),
		"serve", "--grpc", "127.0.0.1:0", "--http", http, "--dns", "127.0.0.1:0", "-o", "json")
	s.cmd.Stderr = &s.log
	// The server must not outlive this program, even if the program is killed.
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
	case text := <-line:
		var ready struct{ HTTP string }
		if err := json.Unmarshal(text, &ready); err != nil || ready.HTTP == "" {
			s.kill()
			return nil, fmt.Errorf("it printed %q, not its addresses", text)
		}
		s.HTTP = ready.HTTP
		return s, nil
	case <-s.exited:
		return nil, fmt.Errorf("it exited with %v: %s", s.cmd.ProcessState, s.log.String())
	case <-time.After(2 * EventTimeout):
		s.kill()
		return nil, fmt.Errorf("it printed no addresses: %s", s.log.String())
	}
}

// Terminate sends SIGTERM, and checks that the server exits with code 0 within 6 s.
func (s *Server) Terminate() {
	began := time.Now()
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		code := s.cmd.ProcessState.ExitCode()
		Check(code == 0, "exit code %d after %v", code, time.Since(began))
	case <-time.After(6 * time.Second):
		s.kill()
		Check(false, "still running 6 s after SIGTERM")
	}
}

func (s *Server) kill() {
	s.cmd.Process.Kill()
	<-s.exited
}

// Environment returns the environment of this program without Consul's variables. With an address, it adds
// CONSUL_HTTP_ADDR, which Consul's client reads.
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
