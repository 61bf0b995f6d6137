package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	pb "callboard.dev/proto/callboard/v1"
	"google.golang.org/grpc"
)

const reopenPause = 100 * time.Millisecond

// follow watches a service on one channel, for the suite replicas. It opens the watch with its token again whenever it ends,
// and prints each event as a line of JSON.
func follow(target, service string) {
	conn := connect(target)
	lines := json.NewEncoder(os.Stdout)
	print := func(event, id string) {
		check(lines.Encode(map[string]string{"event": event, "id": id}) == nil, "stdout is closed")
	}
	check(lines.Encode(map[string]string{"event": "ready", "client": "grpc-go " + grpc.Version}) == nil, "stdout is closed")
	request := &pb.WatchRequest{Services: []string{service}}
	for before := (*watch)(nil); ; time.Sleep(reopenPause) {
		w := open(context.Background(), conn, request, before)
		for {
			message, err := w.next(time.Hour)
			if err != nil {
				break
			}
			w.print(message, print)
		}
		if len(w.token) > 0 {
			request.ResumeToken, before = w.token, w
		}
		fmt.Fprintln(os.Stderr, "the watch has ended")
	}
}

// print prints what a message has changed, once its step is complete.
func (w *watch) print(message *pb.WatchResponse, print func(event, id string)) {
	for _, instance := range message.GetSnapshot().GetInstances() {
		print("updated", instance.Id)
	}
	if message.GetReset_() != nil {
		print("reset", w.reset.String())
	}
	if message.GetSynced() != nil {
		print("synced", "")
	}
	for ; len(w.changes) > 0 && len(w.step) == 0; w.changes = w.changes[1:] {
		if gone := w.changes[0].GetRemoved(); gone != nil {
			print("removed", gone.Id)
		} else {
			print("updated", w.changes[0].GetUpdated().GetId())
		}
	}
}
