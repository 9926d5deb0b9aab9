"""An OpenAI-compatible server that starts at once, with faults; run as a process of its own.

``python tiny_server.py PORT [slow-start | dies | refuses | silent]``
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers like a server whose tokens cost nothing."""

    mode = ""
    looks = 0

    def do_GET(self) -> None:
        """Health and models."""
        if self.path == "/health":
            Handler.looks += 1
            starting = self.mode == "slow-start" and Handler.looks < 4
            self._send(503 if starting or self.mode == "silent" else 200, b"{}")
        else:
            self._send(200, json.dumps({"data": [{"id": "folder/tiny"}]}).encode())

    def do_POST(self) -> None:
        """A stream of as many tokens as are asked for, a millisecond apart."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.mode == "refuses":
            self._send(400, b"prompt must be a text")
            return
        self.send_response(200)
        self.end_headers()
        for _ in range(asked["max_tokens"]):
            time.sleep(0.001)
            self.wfile.write(b'data: {"choices": [{"text": " to", "finish_reason": null}]}\n\n')
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(port: int, mode: str = "") -> None:
    """Serve for ever, or say why not; leaves a child behind that nobody but the guardian ends."""
    Handler.mode = mode
    if mode == "dies":
        sys.exit("the model is not there")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print(f"child {child.pid}", flush=True)
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
