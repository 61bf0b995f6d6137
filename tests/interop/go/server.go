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

// server is the process under test. It chooses its own ports.
type server struct {
	grpc    string
	grpcTLS string
	http    string
	log     bytes.Buffer // complete once the process has exited
	cmd     *exec.Cmd
	exited  chan struct{} // closed once the process has exited
}

func startServer(program string) (*server, error) {
	s := &server{exited: make(chan struct{})}
	s.cmd = exec.Command(program, "serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "-o", "json", "--grpc-tls", "127.0.0.1:0",
		"--tls-cert", certificatePath("server.pem"), "--tls-key", certificatePath("server.key"), "--tls-client-ca", certificatePath("ca.pem"))
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
	case text := <-line:
		var ready struct {
			GRPC, HTTP string
			GRPCTLS    string `json:"grpc_tls"`
		}
		if err := json.Unmarshal(text, &ready); err != nil || ready.GRPC == "" || ready.HTTP == "" {
			s.kill()
			return nil, fmt.Errorf("it printed %q, not its addresses", text)
		}
		s.grpc, s.grpcTLS, s.http = ready.GRPC, ready.GRPCTLS, ready.HTTP
		return s, nil
	case <-s.exited:
		return nil, fmt.Errorf("it exited with %v: %s", s.cmd.ProcessState, s.log.String())
	case <-time.After(2 * eventTimeout):
		s.kill()
		return nil, fmt.Errorf("it printed no addresses: %s", s.log.String())
	}
}

// terminate sends SIGTERM and returns the exit code, -1 after a timeout, and the time until the exit.
func (s *server) terminate(within time.Duration) (code int, took time.Duration) {
	began := time.Now()
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		return s.cmd.ProcessState.ExitCode(), time.Since(began)
	case <-time.After(within):
		s.kill()
		return -1, time.Since(began)
	}
}

func (s *server) kill() {
	s.cmd.Process.Kill()
	<-s.exited
}
