"""SGLang's detokenizer as a thread of the HTTP process.

Its work is a few milliseconds a second, and a process of its own is another copy of Python, PyTorch and SGLang: 0.7 GB
and a third of the start-up's work. A GPU engine keeps the process; there neither matters.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from sglang.srt.environ import envs
from sglang.srt.managers.detokenizer_manager import DETOKENIZER_MAX_STATES, DetokenizerManager, LimitedCapacityDict
from sglang.srt.parser.response_template import tool_close_token_ids
from sglang.srt.runtime_context import get_device, get_serving
from sglang.srt.utils.watchdog import Watchdog

_logger = logging.getLogger(__name__)

Launched = tuple[list[Any], list[str]]
"""Processes, and their names, that SGLang is to watch."""


class DetokenizerThread(DetokenizerManager):  # type: ignore[misc]
    """SGLang's detokenizer, without the count of a process's CPU time, which the HTTP process already keeps."""

    def init_running_status(self, server_args: Any) -> None:
        """As SGLang's, which starts that count when metrics are on: a second one in a process is an error."""
        serving = get_serving()
        self.decode_status = LimitedCapacityDict(capacity=DETOKENIZER_MAX_STATES)
        self.disable_tokenizer_batch_decode = serving.disable_tokenizer_batch_decode
        self.is_tool_call_parser_gpt_oss = serving.tool_call_parser == "gpt-oss"
        self.tool_close_token_ids = tool_close_token_ids(serving.tool_call_parser, self.tokenizer)
        self.soft_watchdog = Watchdog.create(
            debug_name="DetokenizerManager",
            watchdog_timeout=get_device().soft_watchdog_timeout,
            soft=True,
            test_stuck_time=envs.SGLANG_TEST_STUCK_DETOKENIZER.get(),
        )


def launch(original: Callable[..., Launched], cls: type, *args: Any, **kwargs: Any) -> Launched:
    """Start the detokenizer here: an AROUND hook on `Engine._launch_detokenizer_subprocesses`.

    Several workers, which the user asks for, stay processes.
    """
    if get_serving().detokenizer_worker_num > 1:
        return original(cls, *args, **kwargs)
    # Made here, so that what is wrong with it ends the start; only the loop, which blocks, has the thread.
    manager = DetokenizerThread(kwargs["server_args"], kwargs["port_args"])
    threading.Thread(target=_run, args=(manager,), name="detokenizer", daemon=True).start()
    return [], []


def _run(manager: DetokenizerThread) -> None:
    try:
        manager.event_loop()
    except Exception:
        # What SGLang's own process does when it fails: the HTTP process then ends the engine.
        _logger.exception("the detokenizer failed")
        os.kill(os.getpid(), signal.SIGQUIT)
