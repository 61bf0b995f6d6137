package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"callboard.dev/interop/consul/stage"
	"github.com/hashicorp/consul/api"
)

// program is one of the two beside this one, built into the same directory.
type program struct {
	cmd   *exec.Cmd
	lock  sync.Mutex
	lines []string
	ended chan struct{}
}

func launch(name, http string, settings ...string) *program {
	p := &program{
		cmd:   exec.Command(filepath.Join(filepath.Dir(stage.Must(os.Executable())), name)),
		ended: make(chan struct{}),
	}
	p.cmd.Env = append(stage.Environment(http), settings...)
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout := stage.Must(p.cmd.StdoutPipe())
	stage.Fine(p.cmd.Start())
	go func() {
		scanner := bufio.NewScanner(stdout)
		for scanner.Scan() {
			p.lock.Lock()
			p.lines = append(p.lines, scanner.Text())
			p.lock.Unlock()
		}
		p.cmd.Wait()
		close(p.ended)
	}()
	return p
}

// said returns what it printed from a line on, and the number of the line after.
func (p *program) said(from int) ([]string, int) {
	p.lock.Lock()
	defer p.lock.Unlock()
	return slices.Clone(p.lines[from:]), len(p.lines)
}

// says waits for a line that it has not said before now.
func (p *program) says(within time.Duration, line string) {
	_, from := p.said(0)
	p.hasSaid(within, from, line)
}

func (p *program) hasSaid(within time.Duration, from int, line string) {
	stage.Eventually(within, fmt.Sprintf("a line %q", line), func() (bool, any) {
		lines, _ := p.said(from)
		return slices.ContainsFunc(lines, func(said string) bool { return strings.HasPrefix(said, line) }), lines
	})
}

func (p *program) terminate() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stage.Patience):
		p.kill()
		stage.Check(false, "%s did not end", p.cmd.Path)
	}
	stage.Check(p.cmd.ProcessState.Success(), "%s ended with %v", p.cmd.Path, p.cmd.ProcessState)
}

func (p *program) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

func tutorialPair() {
	settings := []string{"NAME=hello", "PORT=0", "INTERVAL=1s", "PAUSE=100ms"}
	discover := launch("discover", server.HTTP, settings...)
	defer discover.kill()
	discover.says(stage.Patience, "found: 0")
	one := launch("register", server.HTTP, settings...)
	defer one.kill()
	two := launch("register", server.HTTP, settings...)
	defer two.kill()
	discover.says(stage.Patience, "found: 2")
	for id := range stage.Must(agent.ServicesWithFilter(`Service == "hello"`)) {
		discover.says(stage.Patience, "called: "+id+" 200")
	}
	one.terminate()
	discover.says(stage.Patience, "found: 1")
	two.terminate()
	discover.says(stage.Patience, "found: 0")
}

// Nothing set: what a reader of the tutorial does. Its check passes within the first ten seconds.
func tutorialPairOnDefaultPort() {
	for _, port := range []string{"8500", "8080"} {
		listener, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			fmt.Printf("        port %s is not free here: with the ports that were compiled in, nothing could be tried\n", port)
			return
		}
		listener.Close()
	}
	local, err := stage.StartAt("127.0.0.1:8500")
	stage.Check(err == nil, "%v", err)
	defer local.Terminate()
	register := launch("register", "")
	defer register.kill()
	register.hasSaid(stage.Patience, 0, "registered greeter-8080")
	discover := launch("discover", "")
	defer discover.kill()
	discover.says(10*time.Second+stage.Patience, "called: greeter-8080 200")
	register.terminate()
	discover.says(stage.Patience, "found: 0")
}

// A check that stays critical for its minute takes the service with it. Consul looks every 30 s.
func reaps() {
	register := launch("register", server.HTTP, "NAME=mortal", "PORT=0", "INTERVAL=1s")
	defer register.kill()
	passing := func() []*api.ServiceEntry {
		entries, _, err := health.Service("mortal", "", true, nil)
		return stage.Must(entries, err)
	}
	count := func(wanted int) func() (bool, any) {
		return func() (bool, any) {
			entries := passing()
			return len(entries) == wanted, entries
		}
	}
	stage.Eventually(stage.Patience, "passes", count(1))
	register.kill()
	killed := time.Now()
	stage.Eventually(stage.Patience, "fails", count(0))
	gone := func() (bool, any) {
		entries, _, err := health.Service("mortal", "", false, nil)
		return len(stage.Must(entries, err)) == 0, entries
	}
	stage.Eventually(60*time.Second+30*time.Second+stage.Patience, "is reaped", gone)
	took := time.Since(killed)
	stage.Check(took > 59*time.Second, "reaped %v after its death, before its minute was over", took)
	services := stage.Must(agent.Services())
	stage.Check(len(services) == 0, "the agent still has %v", services)
	checks := stage.Must(agent.Checks())
	stage.Check(len(checks) == 0, "the agent still has %v", checks)
}
