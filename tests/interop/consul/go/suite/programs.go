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

	"callboard.dev/interop/consul/harness"
	"github.com/hashicorp/consul/api"
)

// program is a running ../register or ../discover, which are built into the same directory as this program.
type program struct {
	cmd   *exec.Cmd
	lock  sync.Mutex
	lines []string
	ended chan struct{}
}

func launch(name, http string, settings ...string) *program {
	p := &program{
		cmd:   exec.Command(filepath.Join(filepath.Dir(harness.Must(os.Executable())), name)),
		ended: make(chan struct{}),
	}
	p.cmd.Env = append(harness.Environment(http), settings...)
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout := harness.Must(p.cmd.StdoutPipe())
	harness.NoError(p.cmd.Start())
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

// linesFrom returns the printed lines from an index on, and the number of all lines.
func (p *program) linesFrom(from int) ([]string, int) {
	p.lock.Lock()
	defer p.lock.Unlock()
	return slices.Clone(p.lines[from:]), len(p.lines)
}

// expectLine waits for a line that is printed after the call.
func (p *program) expectLine(within time.Duration, line string) {
	_, from := p.linesFrom(0)
	p.expectLineFrom(within, from, line)
}

// expectLineFrom waits for a line that starts with this text, at an index of `from` or higher.
func (p *program) expectLineFrom(within time.Duration, from int, line string) {
	harness.Eventually(within, fmt.Sprintf("a line %q", line), func() (bool, any) {
		lines, _ := p.linesFrom(from)
		return slices.ContainsFunc(lines, func(printed string) bool { return strings.HasPrefix(printed, line) }), lines
	})
}

func (p *program) terminate() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(harness.EventTimeout):
		p.kill()
		harness.Check(false, "%s did not exit", p.cmd.Path)
	}
	harness.Check(p.cmd.ProcessState.Success(), "%s exited with %v", p.cmd.Path, p.cmd.ProcessState)
}

func (p *program) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

func tutorialPair() {
	settings := []string{"NAME=hello", "PORT=0", "INTERVAL=1s", "PAUSE=100ms"}
	discover := launch("discover", server.HTTP, settings...)
	defer discover.kill()
	discover.expectLine(harness.EventTimeout, "found: 0")
	one := launch("register", server.HTTP, settings...)
	defer one.kill()
	two := launch("register", server.HTTP, settings...)
	defer two.kill()
	discover.expectLine(harness.EventTimeout, "found: 2")
	for id := range harness.Must(agent.ServicesWithFilter(`Service == "hello"`)) {
		discover.expectLine(harness.EventTimeout, "called: "+id+" 200")
	}
	one.terminate()
	discover.expectLine(harness.EventTimeout, "found: 1")
	two.terminate()
	discover.expectLine(harness.EventTimeout, "found: 0")
}

// Sets no variables, as readers of the tutorial do. The check passes within ten seconds.
func tutorialPairOnDefaultPort() {
	for _, port := range []string{"8500", "8080"} {
		listener, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			fmt.Printf("        port %s is in use: this step needs the default ports, and is skipped\n", port)
			return
		}
		listener.Close()
	}
	local, err := harness.StartAt("127.0.0.1:8500")
	harness.Check(err == nil, "%v", err)
	defer local.Terminate()
	register := launch("register", "")
	defer register.kill()
	register.expectLineFrom(harness.EventTimeout, 0, "registered greeter-8080")
	discover := launch("discover", "")
	defer discover.kill()
	discover.expectLine(10*time.Second+harness.EventTimeout, "called: greeter-8080 200")
	register.terminate()
	discover.expectLine(harness.EventTimeout, "found: 0")
}

// A service whose check is critical for a minute is deregistered. Consul looks for such services every 30 s.
func deregistersCriticalService() {
	register := launch("register", server.HTTP, "NAME=mortal", "PORT=0", "INTERVAL=1s")
	defer register.kill()
	passing := func() []*api.ServiceEntry {
		entries, _, err := health.Service("mortal", "", true, nil)
		return harness.Must(entries, err)
	}
	count := func(wanted int) func() (bool, any) {
		return func() (bool, any) {
			entries := passing()
			return len(entries) == wanted, entries
		}
	}
	harness.Eventually(harness.EventTimeout, "the service is passing", count(1))
	register.kill()
	killed := time.Now()
	harness.Eventually(harness.EventTimeout, "the service is not passing", count(0))
	deregistered := func() (bool, any) {
		entries, _, err := health.Service("mortal", "", false, nil)
		return len(harness.Must(entries, err)) == 0, entries
	}
	harness.Eventually(60*time.Second+30*time.Second+harness.EventTimeout, "the service is deregistered", deregistered)
	took := time.Since(killed)
	harness.Check(took > 59*time.Second, "deregistered %v after the kill, before the minute was over", took)
	services := harness.Must(agent.Services())
	harness.Check(len(services) == 0, "the agent still lists the services %v", services)
	checks := harness.Must(agent.Checks())
	harness.Check(len(checks) == 0, "the agent still lists the checks %v", checks)
}
