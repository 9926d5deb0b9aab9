"""An "engine" made of the standard library: answers like one, and leaves stubborn processes behind if it is let.

Run as ``python script_engine.py --config FILE --port PORT --pids FILE --mode MODE --policy POLICY``.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from autellix_server.engine.marker import code_version

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"


def start_stubborn(new_session: bool) -> int:
    """Start a process that ignores SIGTERM, and return its ID once it does so."""
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, start_new_session=new_session)
    assert child.stdout is not None
    child.stdout.readline()
    return child.pid


def serve(port: int, key: str, policy: str | None) -> None:
    """Answer ``/health``, ``/server_info`` and everything else on a loopback port, for ever."""
    marker = {"version": code_version(), "policy": policy, "name": "e0", "http": True}
    limits = {"max_running_requests": 16, "max_total_num_tokens": 32768, "chunked_prefill_size": 512}
    shown = {"served_model_name": "tiny", **limits}
    server_info = {**shown, "autellix": marker} if policy else shown

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            allowed = self.path == "/health" or self.headers["Authorization"] == f"Bearer {key}"
            body = json.dumps(server_info).encode() if allowed else b"wrong key"
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def main() -> None:
    """Behave as ``--mode`` says."""
    parser = argparse.ArgumentParser()
    for name in ("--config", "--port", "--pids", "--mode", "--policy"):
        parser.add_argument(name)
    options = parser.parse_args()
    print("Load weight begin", flush=True)
    if options.mode == "refuse":
        print("autellix: refused flag --enable-mixed-chunk: no", flush=True)
        os._exit(1)
    if options.mode == "crash":
        print("the weights are gone", flush=True)
        os._exit(3)
    if options.mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    family = [os.getpid(), start_stubborn(new_session=False)]
    if options.mode in ("stubborn", "leaves-session"):
        family.append(start_stubborn(new_session=options.mode == "leaves-session"))
    with Path(options.pids).open("a") as file:
        file.write("".join(f"{pid}\n" for pid in family))
    if options.mode == "orphans":  # The engine dies and leaves its child to whoever adopts it.
        os._exit(5)
    if options.mode == "silent":
        time.sleep(600)
    if options.mode == "dies-later":
        threading.Timer(0.5, os._exit, (7,)).start()
    key = json.loads(Path(options.config).read_text())["api-key"]
    serve(int(options.port), key, None if options.mode == "unmarked" else options.policy)


main()
