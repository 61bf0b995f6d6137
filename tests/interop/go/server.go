package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"syscall"
	"time"
)

// server is the process under test, at addresses of its own choice.
type server struct {
	grpc    string
	grpcTLS string
	http    string
	log     bytes.Buffer // to be read once it has ended
	cmd     *exec.Cmd
	exited  chan struct{} // closed once it has ended
}

func startServer(program string) (*server, error) {
	s := &server{exited: make(chan struct{})}
	s.cmd = exec.Command(program, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "-o", "json", "--grpc-tls", "127.0.0.1:0",
		"--tls-cert", papers("server.pem"), "--tls-key", papers("server.key"), "--tls-client-ca", papers("ca.pem"))
	s.cmd.Stderr = &s.log
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
		var ready struct {
			GRPC, HTTP string
			GRPCTLS    string `json:"grpc_tls"`
		}
		if err := json.Unmarshal(said, &ready); err != nil || ready.GRPC == "" || ready.HTTP == "" {
			s.kill()
			return nil, fmt.Errorf("it said %q, not its addresses", said)
		}
		s.grpc, s.grpcTLS, s.http = ready.GRPC, ready.GRPCTLS, ready.HTTP
		return s, nil
	case <-s.exited:
		return nil, fmt.Errorf("it ended with %v: %s", s.cmd.ProcessState, s.log.String())
	case <-time.After(2 * patience):
		s.kill()
		return nil, fmt.Errorf("it did not say its addresses: %s", s.log.String())
	}
}

// terminate asks it to end and tells how it did.
func (s *server) terminate(within time.Duration) (code int, took time.Duration) {
	asked := time.Now()
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		return s.cmd.ProcessState.ExitCode(), time.Since(asked)
	case <-time.After(within):
		s.kill()
		return -1, time.Since(asked)
	}
}

func (s *server) kill() {
	s.cmd.Process.Kill()
	<-s.exited
}
