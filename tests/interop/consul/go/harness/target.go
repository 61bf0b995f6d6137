package harness

import (
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
)

// Target is an HTTP service whose status code can be set.
type Target struct {
	Port   int
	status atomic.Int32
	server *http.Server
}

func NewTarget() *Target {
	listener := Must(net.Listen("tcp", "127.0.0.1:0"))
	t := &Target{Port: listener.Addr().(*net.TCPAddr).Port}
	t.SetStatus(http.StatusOK)
	t.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(t.status.Load()))
		fmt.Fprintf(w, "target %d", t.Port)
	})}
	go t.server.Serve(listener)
	return t
}

func (t *Target) SetStatus(status int) { t.status.Store(int32(status)) }

func (t *Target) URL() string { return fmt.Sprintf("http://127.0.0.1:%d/health", t.Port) }

func (t *Target) Close() { t.server.Close() }
