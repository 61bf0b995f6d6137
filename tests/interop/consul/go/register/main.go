// A service that registers itself with Consul as tutorials show: default configuration, one HTTP check. The suites set
// PORT, NAME, and a short INTERVAL; ADDRESS if the registry is on another host.
package main

import (
	"cmp"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/hashicorp/consul/api"
)

func main() {
	name := cmp.Or(os.Getenv("NAME"), "greeter")
	listener, err := net.Listen("tcp", "localhost:"+cmp.Or(os.Getenv("PORT"), "8080"))
	if err != nil {
		log.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	http.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "in good health") })
	go http.Serve(listener, nil)

	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		log.Fatal(err)
	}
	id := name + "-" + strconv.Itoa(port)
	err = client.Agent().ServiceRegister(&api.AgentServiceRegistration{
		ID:      id,
		Name:    name,
		Address: os.Getenv("ADDRESS"),
		Port:    port,
		Check: &api.AgentServiceCheck{
			HTTP:                           fmt.Sprintf("http://localhost:%d/health", port),
			Interval:                       cmp.Or(os.Getenv("INTERVAL"), "10s"),
			Timeout:                        "1s",
			DeregisterCriticalServiceAfter: "1m",
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("registered", id)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	<-stop
	if err := client.Agent().ServiceDeregister(id); err != nil {
		log.Fatal(err)
	}
	fmt.Println("deregistered", id)
}
