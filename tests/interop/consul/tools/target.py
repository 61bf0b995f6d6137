"""HTTP service for the tools: `/` returns its name; `/health` returns the status code that `POST /health` set last."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

health = 200


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer(health if self.path == "/health" else 200)

    def do_POST(self) -> None:
        global health
        health = int(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200)

    def answer(self, status: int) -> None:
        body = sys.argv[1].encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
