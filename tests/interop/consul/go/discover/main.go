// Lists the passing instances of a service repeatedly, and calls each of them. If an instance has no address, as those
// that ../register makes, it uses the address of the node.
package main

import (
	"cmp"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"
)

func main() {
	name := cmp.Or(os.Getenv("NAME"), "greeter")
	pause, err := time.ParseDuration(cmp.Or(os.Getenv("PAUSE"), "2s"))
	if err != nil {
		log.Fatal(err)
	}
	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		log.Fatal(err)
	}
	for ; ; time.Sleep(pause) {
		entries, _, err := client.Health().Service(name, "", true, nil)
		if err != nil {
			fmt.Println("error:", err)
			continue
		}
		fmt.Println("found:", len(entries))
		for _, entry := range entries {
			host := cmp.Or(entry.Service.Address, entry.Node.Address)
			address := net.JoinHostPort(host, strconv.Itoa(entry.Service.Port))
			response, err := http.Get("http://" + address + "/health")
			if err != nil {
				fmt.Println("error:", err)
				continue
			}
			response.Body.Close()
			fmt.Println("called:", entry.Service.ID, response.StatusCode)
		}
	}
}
