"""Watches a service on one channel, for the suite replicas. Opens the watch with its token again whenever it ends, and prints
each event as a line of JSON."""

import json
import sys
import time

import grpc
from fixture import connect
from watch import Watch

REOPEN_PAUSE = 0.1  # seconds
NEVER = 3600.0


def show(event: str, **fields: str) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def follow(target: str, service: str) -> None:
    channel = connect(target)
    show("ready", client=f"grpcio {grpc.__version__}")
    watch, token = None, b""
    while True:
        watch = Watch(channel, watch if token else None, services=[service], resume_token=token)
        known = set(watch.instances)
        while (arrival := watch.next(NEVER)).message is not None:
            if arrival.message.HasField("reset"):
                show("reset", id=watch.reset)
            if arrival.message.HasField("synced"):
                for key in set(watch.instances) - known:
                    show("updated", id=key.split("/")[1])
                show("synced", id="")
            for seen in watch.changes:
                show("removed" if seen.updated is None else "updated", id=seen.key.split("/")[1])
            watch.changes.clear()
        token = watch.token or token
        time.sleep(REOPEN_PAUSE)


follow(*sys.argv[1:])
