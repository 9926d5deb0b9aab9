"""Run in the engine's environment: a detokenizer whose loop fails, and an engine that is asked for several of them."""

from __future__ import annotations

import queue
import signal
from types import SimpleNamespace
from typing import Any

from sglang.srt.managers.detokenizer_manager import DetokenizerManager

from autellix_server.sglang_plugin import detokenizer


class Failing(detokenizer.DetokenizerThread):
    """Its loop ends with an error."""

    def __init__(self, server_args: Any, port_args: Any) -> None:
        assert (server_args, port_args) == ("arguments", "ports")

    def event_loop(self) -> None:
        """Fail at once."""
        raise RuntimeError("broken")


assert detokenizer.DetokenizerThread.event_loop is DetokenizerManager.event_loop
detokenizer.DetokenizerThread = Failing  # type: ignore[misc]
serving = SimpleNamespace(detokenizer_worker_num=1)
detokenizer.get_serving = lambda: serving
received = queue.SimpleQueue[str]()
signal.signal(signal.SIGQUIT, lambda number, _: received.put(signal.Signals(number).name))

arguments = {"server_args": "arguments", "port_args": "ports"}
assert detokenizer.launch(lambda *_, **__: (["process"], ["name"]), object, **arguments) == ([], [])
print(received.get(timeout=30))

serving.detokenizer_worker_num = 2
assert detokenizer.launch(lambda *_, **__: (["process"], ["name"]), object, **arguments) == (["process"], ["name"])
print("processes")
