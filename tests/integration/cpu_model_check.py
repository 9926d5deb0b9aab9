"""Run in the engine's environment: layers as one operation each against the same operations one by one, bit for bit.

Takes a folder with a Llama and the type to compute in. Prints how many batches it compared, and how many kinds of batch
and of model went SGLang's way.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import sglang.benchmark.one_batch as bench
import torch
from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardMode
from sglang.srt.server_args import PortArgs, ServerArgs

from autellix_server.sglang_plugin.cpu import ATTENTION_BACKEND

LENGTHS = (70, 5, 200, 49)
CUT = 3
"""Tokens of a prompt that are computed before the rest."""

ALL_ARE_READ = {
    "return_logprob": True,
    "is_prefill_only": True,
    "capture_hidden_mode": CaptureHiddenMode.FULL,
    "token_indices_to_pool": [],
    "multi_item_delimiter_indices": [],
}
"""Changes to a batch of prompts after which the states of all tokens are wanted."""

ORDINARY = {
    "forward_mode": ForwardMode.MIXED,
    "spec_info": object(),
    "encoder_lens": torch.ones(1),
    "global_num_tokens_cpu": [1],
}
"""Changes to a batch after which it goes SGLang's way."""


class Compared:
    """Stands for the decoder's `forward`: computes each batch both ways and requires the same bits."""

    def __init__(self, runner: Any) -> None:
        self.runner, self.model = runner, runner.model
        self.joined = self.model.model.forward
        self.one_by_one = self.joined._otherwise
        self.joined._otherwise = lambda *_: None
        self.batches = self.ordinary = 0
        pool = runner.token_to_kv_pool
        self.pools = [*pool.k_buffer, *pool.v_buffer]

    def __call__(self, input_ids: Any, positions: Any, batch: Any, *given: Any, **options: Any) -> Any:
        """Return the states, after all variants of the batch were looked at."""
        arguments = input_ids, positions
        expected = self.one_by_one(*arguments, batch)
        self._same(arguments, batch, expected, self._read(batch))
        if batch.forward_mode is ForwardMode.EXTEND:
            for name, value in ALL_ARE_READ.items():
                with changed(batch, name, value):
                    self._same(arguments, batch, expected, slice(None))
            with changed(self.joined._backend, "generates", False):
                self._same(arguments, batch, expected, slice(None))
        for name, value in ORDINARY.items():
            with changed(batch, name, value):
                self.goes_on(*arguments, batch)
        with changed(self.model.model, "layers_to_capture", [1]):
            self.goes_on(*arguments, batch)
        self.goes_on(*arguments, batch, expected)
        self.goes_on(input_ids, positions.expand(3, -1), batch)
        self.goes_on(input_ids, positions.int(), batch)
        with changed(self.joined._ops, "max_linear_rows", 0):
            self.goes_on(*arguments, batch)
        self._wrapped(lambda: self.goes_on(*arguments, batch))
        return expected

    def goes_on(self, *arguments: Any) -> None:
        """Require that a batch goes SGLang's way."""
        assert self.joined(*arguments) is None
        self.ordinary += 1

    def _read(self, batch: Any) -> Any:
        decodes = batch.forward_mode is ForwardMode.DECODE
        return slice(None) if decodes else batch.extend_seq_lens.cumsum(0) - 1

    def _same(self, arguments: tuple[Any, ...], batch: Any, expected: torch.Tensor, read: Any) -> None:
        """Require the states that are read, and the KV, of the operations one by one."""
        slots = batch.out_cache_loc
        kept = [pool[slots].clone() for pool in self.pools]
        for pool in self.pools:
            pool[slots] = float("nan")
        found = self.joined(*arguments, batch)
        assert found.shape == expected.shape
        assert torch.equal(found[read], expected[read])
        assert all(torch.equal(pool[slots], before) for pool, before in zip(self.pools, kept, strict=True))
        self.batches += 1

    def _wrapped(self, check: Callable[[], None]) -> None:
        """Check models with a part that is not, or no longer, what the operation computes."""
        layer = self.model.model.layers[-1]
        wrapped = copy.copy(layer.mlp.down_proj)
        wrapped.__class__ = type("Wrapped", (type(wrapped),), {})
        parts = (
            (layer.mlp, "down_proj", wrapped),
            (layer.mlp.down_proj, "quant_method", object()),
            (layer.mlp.act_fn, "forward", layer.mlp.act_fn.forward._otherwise),
            (layer.input_layernorm, "forward", layer.input_layernorm.forward._otherwise),
            (layer.self_attn.rotary_emb, "forward", layer.self_attn.rotary_emb.forward._otherwise),
            (layer.self_attn.attn, "sliding_window_size", 64),
            (self.model.model.pp_group, "world_size", 2),
            (self.model.model, "embed_tokens", torch.nn.Identity()),
        )
        for module, name, value in parts:
            with changed(module, name, value):
                self._anew(check)
        with_hook = layer.register_forward_hook(lambda *_: None)
        self._anew(check)
        with_hook.remove()
        self._anew(lambda: None)

    def _anew(self, check: Callable[[], None]) -> None:
        self.joined._backend = None
        check()
        self.joined._backend = None


@contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Have another attribute for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def load(folder: str, dtype: str) -> Any:
    """Return SGLang's runner of the model, as an engine would have it."""
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    given = ["--model-path", folder, "--dtype", dtype, "--device", "cpu", "--max-total-tokens", "4096"]
    given += ["--max-running-requests", "8", "--attention-backend", ATTENTION_BACKEND]
    arguments = ServerArgs.from_cli_args(parser.parse_args(given))
    found: list[Any] = []

    def work(server_args: Any, port_args: PortArgs, *_: Any) -> None:
        ranks = bench.SpawnRanks(world_rank=bench.spawn_world_rank(server_args, tp_rank=0, pp_rank=0), gpu_id=0)
        bench.publish(server_args, role="scheduler", ranks=ranks)
        bench._init_process_global_configs()
        found.append(bench.load_model(server_args, port_args, 0, 0)[0].torch_runner)

    bench.latency_test = work
    bench.main(arguments, bench.BenchArgs())
    return found[0]


def main(folder: str, dtype: str) -> None:
    """Compare prompts, prompts that go on, and decodes; with weights that were replaced, too."""
    runner = load(folder, dtype)
    compared = runner.model.model.forward = Compared(runner)
    torch.manual_seed(0)
    prompts = [torch.randint(0, 1000, (length,)).tolist() for length in LENGTHS]
    requests = bench.prepare_synthetic_inputs_for_latency_test(len(prompts), 0, [prompt[:CUT] for prompt in prompts])
    bench.extend(requests, runner)
    given = SimpleNamespace(cut_len=CUT)
    tokens, _, batch = bench.extend(
        bench.prepare_extend_inputs_for_correctness_test(given, prompts, requests, runner), runner
    )
    bench.decode(tokens, batch, runner)
    down = runner.model.model.layers[0].mlp.down_proj
    down.weight = torch.nn.Parameter(down.weight.flip(0).contiguous(), requires_grad=False)
    bench.decode(tokens, batch, runner)
    print(compared.batches, compared.ordinary)


if __name__ == "__main__":
    main(*sys.argv[1:])
