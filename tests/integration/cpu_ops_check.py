"""Run in the engine's environment: the compiled operations against PyTorch in double precision.

Takes the library and the number of threads. Prints one JSON object for each case: its name, the greatest error in
units of what the element type can tell apart, and a digest of all its outputs.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from autellix_server.cpu_ops.layer import Batch, Shape, Step, Weights
from autellix_server.cpu_ops.library import CpuOps

UNIT = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8}
SLOTS, POSITIONS = 700, 400
FEW_ROWS = 48


class Case:
    """Random tensors of one type, and the outputs that were checked."""

    def __init__(self, ops: CpuOps, dtype: torch.dtype) -> None:
        self.ops, self.dtype = ops, dtype
        self.error = 0.0
        self._outputs = hashlib.sha256()

    def random(self, *shape: int, stride: int | None = None) -> Tensor:
        """Return normal numbers; with a stride, rows that lie that far apart."""
        wide = torch.randn(shape[0], stride or shape[1], *shape[2:]).to(self.dtype)
        return wide[:, : shape[1]]

    def compare(self, found: Tensor, exact: Tensor) -> None:
        """Note how far a result is from the exact one, relative to the largest number near by."""
        scale = exact.abs().amax(-1, keepdim=True).clamp_min(1e-30)
        difference = ((found.double() - exact) / scale).abs().max().item() if found.numel() else 0.0
        assert difference == difference, "a result is not a number"
        self.error = max(self.error, difference / UNIT[self.dtype])
        self.same(found, found)

    def same(self, found: Tensor, other: Tensor) -> None:
        """Require the same bits, which become a part of the digest."""
        assert torch.equal(found, other)
        self._outputs.update(found.contiguous().view(torch.uint8).numpy().tobytes())

    def digest(self) -> str:
        """Return the digest of all that was compared."""
        return self._outputs.hexdigest()


def linear(case: Case) -> None:
    """With and without bias, also when rows do not lie one after the other.

    Rows are computed alike in any company, but that in bfloat16, without units for matrices, few and many rows are
    computed differently.
    """
    few = (1, 1, 64), (2, 3, 192), (3, 50, 64), (5, 961, 576), (16, 960, 1536), (17, 160, 64), (47, 192, 704)
    for rows, outputs, inputs in (
        *few,
        (70, 130, 64),
        (300, 90, 4160),
        (65, 160, 192),
        (530, 192, 704),
        (1060, 160, 64),
    ):
        x, weight = case.random(rows, inputs, stride=inputs + 24), case.random(outputs, inputs)
        bias = case.random(1, outputs)[0]
        alike = case.dtype is torch.float32 or (case.ops.has_matrices and outputs % 32 == 0)
        company = 1 if rows <= FEW_ROWS or alike else FEW_ROWS + 1
        for b in (None, bias):
            y = case.ops.linear(x, weight, b)
            exact = x.double() @ weight.double().T + (0 if b is None else b.double())
            case.compare(y, exact)
            case.same(y[-company:], case.ops.linear(x[-company:], weight, b))


def rms_norm(case: Case) -> None:
    """With a residual, it becomes the sum, rounded; the norm is that of the sum before."""
    for rows, width in ((1, 64), (4, 576), (300, 192), (2, 8192)):
        x, weight, residual = (
            case.random(rows, width, stride=width + 8),
            case.random(1, width)[0],
            case.random(rows, width),
        )
        for rest in (None, residual):
            total = x.double() + (0 if rest is None else rest.double())
            exact = total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-5) * weight.double()
            changed = None if rest is None else rest.clone()
            case.compare(case.ops.rms_norm(x, changed, weight, 1e-5), exact)
            if changed is not None:
                case.same(changed, (x.float() + residual.float()).to(case.dtype))


def silu_and_mul(case: Case) -> None:
    """Also for numbers whose exponentials are out of range."""
    for rows, width in ((1, 64), (33, 1536)):
        x = case.random(rows, 2 * width, stride=2 * width + 8)
        x[0, :4] = torch.tensor([200.0, -200.0, 60.0, -60.0]).to(case.dtype)
        double = x.double()
        case.compare(case.ops.silu_and_mul(x), silu(double[:, :width]) * double[:, width:])


def rotate(case: Case) -> None:
    """Both ways to pair the elements of a head, all of it or its first part, and a table of either type."""
    positions = torch.randint(0, 50, (9,))
    angles = torch.rand(50, 32)
    for rotary, apart, type_ in ((64, True, torch.float32), (64, False, case.dtype), (32, True, case.dtype)):
        half = rotary // 2
        table = torch.cat((angles[:, :half].cos(), angles[:, :half].sin()), -1).to(type_)
        x = case.random(9, 5 * 64, stride=400)
        heads, turned = x.double().view(9, 5, 64), x.double().view(9, 5, 64).clone()
        cos, sin = table.double()[positions][:, None].split(half, -1)
        first, second = (slice(0, half), slice(half, rotary)) if apart else (slice(0, rotary, 2), slice(1, rotary, 2))
        turned[..., first] = heads[..., first] * cos - heads[..., second] * sin
        turned[..., second] = heads[..., second] * cos + heads[..., first] * sin
        case.ops.rotate(positions, x, 64, table, rotary, apart)
        case.compare(x, turned.view(9, -1))


def attention(case: Case) -> None:
    """Prompts after prefixes of any length beside decodes; alone and in pieces a query reads the same bits."""
    for heads, kv_heads, size in (
        (9, 3, 64),
        (4, 4, 64),
        (8, 1, 128),
        (64, 1, 64),
        (2, 1, 256),
        (8, 4, 96),
        (16, 4, 32),
    ):
        pools = [torch.full((SLOTS, kv_heads, size), float("nan"), dtype=case.dtype) for _ in range(2)]
        table = torch.zeros((4, POSITIONS), dtype=torch.int32)
        taken = torch.randperm(SLOTS)
        requests, lengths, fresh = torch.tensor([2, 0, 3]), torch.tensor([130, 1, 200]), torch.tensor([70, 1, 200])
        for request, length in zip(requests, lengths, strict=True):
            slots, taken = taken[:length], taken[length:]
            table[request, :length] = slots.int()
            for pool in pools:
                new = case.random(int(length), kv_heads * size, stride=kv_heads * size + 16)
                case.ops.scatter(new.view(-1, kv_heads, size), slots, pool)
        query = case.random(int(fresh.sum()), heads * size, stride=heads * size + 32).view(-1, heads, size)

        def attend(
            q: Tensor,
            *batch: Tensor | None,
            pools: list[Tensor] = pools,
            table: Tensor = table,
            scale: float = size**-0.5,
        ) -> Tensor:
            requests, lengths, fresh = batch
            assert requests is not None
            assert lengths is not None
            return case.ops.attention(
                *(q, *pools), slots=table, requests=requests, lengths=lengths, fresh=fresh, scale=scale
            )

        found = attend(query, requests, lengths, fresh)
        nowhere = torch.full_like(table, int(taken[0]))
        assert attend(query, requests, lengths, fresh, table=nowhere).isnan().all()
        case.same(found, attend(query, requests, lengths, fresh))  # nothing is left of it
        start = 0
        for request, length, new in zip(requests, lengths, fresh, strict=True):
            mine = slice(start, start := start + int(new))
            case.compare(found[mine], _exact(query[mine], pools, table[request, :length], heads // kv_heads))
            last = attend(query[mine][-1:], request[None], length[None], None)
            case.same(found[mine][-1:], last)
            part = query[mine][: int(new) // 2]
            if len(part):
                seen = length - new + len(part)
                case.same(found[mine][: len(part)], attend(part, request[None], seen[None], torch.tensor([len(part)])))


def _exact(query: Tensor, pools: list[Tensor], slots: Tensor, group: int) -> Tensor:
    keys, values = (pool[slots.long()].double().transpose(0, 1).repeat_interleave(group, 0) for pool in pools)
    new, seen = len(query), len(slots)
    mask = torch.ones(new, seen, dtype=torch.bool).tril(seen - new)
    out = scaled_dot_product_attention(query.double().transpose(0, 1), keys, values, attn_mask=mask)
    return out.transpose(0, 1).reshape(new, -1)


def layer(case: Case) -> None:
    """The bits of its operations one by one: few rows, many, prompts behind prefixes, last rows alone, with biases."""
    heads, kv_heads, size, hidden, inner = 6, 2, 64, 192, 320
    q, kv = heads * size, kv_heads * size
    ops, shape = case.ops, Shape(hidden, heads, kv_heads, size, inner, size, 1, 1, 1e-5, size**-0.5)
    sizes = {"qkv": (q + 2 * kv, hidden), "out": (hidden, q), "gate_up": (2 * inner, hidden), "down": (hidden, inner)}
    matrices = {name: case.random(*of) / of[1] ** 0.5 for name, of in sizes.items()}
    norms = {name: case.random(1, hidden)[0] for name in ("input_norm", "post_norm")}
    some = {f"{name}_bias": case.random(1, of[0])[0] for name, of in sizes.items()}
    angles = torch.rand(500, size // 2)
    rotation = torch.cat((angles.cos(), angles.sin()), -1)
    table = torch.randperm(1500).view(3, 500).int()
    requests, pools = torch.tensor([2, 0, 1]), [case.random(1500, kv_heads * size) for _ in range(2)]

    def one_by_one(
        biases: dict[str, Tensor], state: list[Tensor], slots: Tensor, positions: Tensor, lengths: Tensor, fresh: Tensor
    ) -> list[Tensor]:
        """Return residual, branch, keys and values."""
        residual, branch, keys, values = (tensor.clone() for tensor in state)
        linear = lambda name, x: ops.linear(x, matrices[name], biases.get(f"{name}_bias"))  # noqa: E731
        mixed = linear("qkv", ops.rms_norm(branch, residual, norms["input_norm"], 1e-5))
        query, key, value = mixed.split([q, kv, kv], dim=1)
        for x in (query, key):
            ops.rotate(positions, x, size, rotation, size, True)
        keys, values = keys.view(-1, kv_heads, size), values.view(-1, kv_heads, size)
        ops.scatter(key.view(-1, kv_heads, size), slots, keys)
        ops.scatter(value.view(-1, kv_heads, size), slots, values)
        batch = {"slots": table, "requests": requests, "lengths": lengths, "fresh": fresh}
        read = ops.attention(query.view(-1, heads, size), keys, values, **batch, scale=size**-0.5)
        normed = ops.rms_norm(linear("out", read), residual, norms["post_norm"], 1e-5)
        branch = linear("down", ops.silu_and_mul(linear("gate_up", normed)))
        return [residual, branch, keys, values]

    prompts = ((500, 60, 480), (500, 60, 470)), ((130, 1, 200), (70, 1, 200)), ((3, 150, 7), (2, 30, 1))
    for lengths, fresh in (*prompts, ((9, 1, 150), None)):
        many, new = torch.tensor(lengths), torch.tensor(fresh or (1, 1, 1))
        starts = zip(many - new, many, strict=True)
        positions = torch.cat([torch.arange(start, end) for start, end in starts])
        slots = table[requests.repeat_interleave(new), positions].long()
        rows = len(positions)
        state = [case.random(rows, hidden), case.random(rows, hidden), *pools]
        batch = Batch(
            *(table.data_ptr(), table.stride(0), requests.data_ptr(), many.data_ptr()),
            *(new.data_ptr() if fresh else None, len(requests)),
        )
        for biases in ({}, some):
            named = matrices | norms | biases | {"rotation": rotation}
            weights = Weights(**{name: tensor.data_ptr() for name, tensor in named.items()})
            expected = one_by_one(biases, state, slots, positions, many, new)
            for last in (None, new.cumsum(0) - 1):
                residual, branch, keys, values = (tensor.clone() for tensor in state)
                addresses = (tensor.data_ptr() for tensor in (residual, branch, positions, slots))
                step = Step(*addresses, batch, None if last is None else last.data_ptr(), rows, 0)
                ops.layer(shape, weights, step, keys, values)
                read = slice(None) if last is None else slice(len(last))
                wanted = slice(None) if last is None else last
                case.same(residual[read], expected[0][wanted])
                case.same(branch[read], expected[1][wanted])
                case.same(keys.view_as(expected[2]), expected[2])
                case.same(values.view_as(expected[3]), expected[3])


def sample(case: Case) -> None:
    """Evenly spread uniforms draw each token in proportion, among those that SGLang's sampler would keep."""
    draws = 20_000
    for top_k, top_p, min_p in (
        (997, 1.0, 0.0),
        (997, 0.9, 0.0),
        (20, 1.0, 0.0),
        (50, 0.5, 0.0),
        (997, 0.95, 0.02),
        (1, 1.0, 0.0),
    ):
        probs = torch.softmax(torch.randn(997) * 3, 0)
        probs[100:110] = probs[100]  # ties
        kept, order = probs.double().sort(descending=True, stable=True)
        before = kept.cumsum(0) - kept
        kept[(before > top_p) | (torch.arange(997) >= top_k) | (kept < kept[0] * min_p)] = 0
        expected = torch.zeros(997, dtype=torch.double).scatter(0, order, kept / kept.sum())
        uniforms = (torch.arange(draws) + 0.5) / draws
        limits = (
            torch.tensor([top_k] * draws, dtype=torch.int32),
            torch.tensor([top_p] * draws),
            torch.tensor([min_p] * draws),
        )
        tokens = case.ops.sample(probs.repeat(draws, 1), uniforms, *limits)
        found = torch.bincount(tokens.long(), minlength=997) / draws
        assert not found[expected == 0].any()
        assert (found - expected).abs().max() < 3 / draws
        if top_k == 997 and top_p == 1:
            some = uniforms[::2500].contiguous()
            case.same(case.ops.sample(probs.repeat(len(some), 1), some, None, None, None), tokens[::2500])
        case.same(tokens, tokens)


def from_two_threads(case: Case) -> None:
    """Callers that come at once do not disturb each other."""
    x, weight = case.random(4, 576), case.random(960, 576)
    expected = case.ops.linear(x, weight, None)
    wrong: list[int] = []

    def call() -> None:
        wrong.append(sum(not torch.equal(case.ops.linear(x, weight, None), expected) for _ in range(2000)))

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == [0, 0]


CASES: tuple[Callable[[Case], None], ...] = (
    linear,
    rms_norm,
    silu_and_mul,
    rotate,
    attention,
    layer,
    sample,
    from_two_threads,
)


def results(library: Path, threads: int) -> Iterator[dict[str, object]]:
    """Run all cases for both element types."""
    for dtype in UNIT:
        ops = CpuOps(library, str(dtype).removeprefix("torch."), threads)
        for check in CASES:
            torch.manual_seed(0)
            case = Case(ops, dtype)
            check(case)
            yield {"case": f"{check.__name__} {dtype}", "error": case.error, "digest": case.digest()}


if __name__ == "__main__":
    for result in results(Path(sys.argv[1]), int(sys.argv[2])):
        print(json.dumps(result), flush=True)
