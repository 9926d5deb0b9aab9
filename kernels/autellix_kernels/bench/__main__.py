"""`python -m autellix_kernels.bench [--json]`: rates of swaps, by kernel, model and number of blocks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from autellix_kernels.bench.models import MODELS, Model
from autellix_kernels.bench.run import BLOCKS, HOST_BLOCKS, HOST_BULK_BYTES, Figure, LeftOut, Plan, contenders, figures
from autellix_kernels.layout import PAGE_SIZES, HostLayout
from autellix_kernels.link import BULK_BYTES, measure
from autellix_kernels.transfer import Direction
from autellix_sdk.errors import AutellixError

FORMAT = 1
"""Of what `--json` prints; more when something in it comes to mean something else or is gone."""

NO_GPU = (
    "no GPU: both pools are in the same memory, calls are small, both ways go one after the other, and the figures say "
    "nothing about a GPU"
)
NO_CUDA = (
    "this torch is built without CUDA; where there is a GPU, run it with bin/python of the engine environment for CUDA"
)

_COLUMNS = "{:<17} {:<4} {:>6} {:<18} {:>9} {:>8} {:>5} {:>6} {:>8} {:>8}"
_TITLES = ("model", "way", "blocks", "kernel", "ms", "GB/s", "link", "alone", "launches", "copies")

_DESCRIPTION = """\
Measures what swaps cost: KV of a call goes from the GPU's memory to pinned host memory, all layers at
once, and comes back layer by layer, blocks in any order; then other KV comes in while this goes out.
Every kernel of Autellix takes its turn, beside one copy for each block in each layer (per-block), plain
indexing (reference), and SGLang's kernels where sgl_kernel is installed (sglang). Let nothing else run
on the GPU meanwhile; CUDA_VISIBLE_DEVICES says which one it is."""

_EPILOG = f"""\
the columns:
  way       out, in, or both at once
  kernel    with * the one that such swaps take on this GPU, unless AUTELLIX_SWAP_KERNEL names one
  ms, GB/s  of the fastest of a few swaps of blocks times page size times the KV of a token
  link      share of the rate of one large copy, measured first; of both ways' rates together, if both
  alone     of both at once, the time by that of the slower way alone: 1.00 where the link is full duplex
  launches  kernels started and calls of the driver
  copies    of which the calls of the driver are made

On either side there is room for what goes out and what comes in: 2 x 4.3 GB for 1024 blocks of the
largest model. What there is no memory for is left out, with the reason. With --json, what is being
measured is told on stderr.

examples:
  python -m autellix_kernels.bench --model {MODELS[0].name} --blocks 16,256
  python -m autellix_kernels.bench --layout page_first_direct --json > swaps.json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    options = _parser().parse_args(arguments)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        bulk_bytes = BULK_BYTES if device.type == "cuda" else HOST_BULK_BYTES
        links = {direction: measure(device, direction, bulk_bytes=bulk_bytes) for direction in Direction}
        plan = Plan(
            device=device,
            models=[model for model in MODELS if options.model in (None, model.name)],
            blocks=options.blocks or (BLOCKS if device.type == "cuda" else HOST_BLOCKS),
            layout=HostLayout(options.layout),
            page_size=options.page_size,
            links=links,
        )
        _print_json(plan) if options.json else _print_table(plan)
    except AutellixError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except torch.OutOfMemoryError as error:
        print(f"error: {error}; let nothing else use the GPU, or choose fewer --blocks", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m autellix_kernels.bench",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument(
        "--model", choices=[model.name for model in MODELS], metavar="NAME", help=f"one of: {_names()} (default: all)"
    )
    parser.add_argument(
        "--blocks",
        type=_blocks,
        metavar="N,N",
        help=f"blocks of a call (default: {_listed(BLOCKS)}; without a GPU {_listed(HOST_BLOCKS)})",
    )
    layouts = ", ".join(HostLayout)
    parser.add_argument(
        "--layout",
        choices=list(HostLayout),
        default="page_first",
        metavar="NAME",
        help=f"of the host: {layouts} (%(default)s)",
    )
    parser.add_argument(
        "--page-size", type=_page_size, default=16, metavar="N", help="tokens in a block, 1 to 64 (%(default)s)"
    )
    return parser


def _names() -> str:
    return ", ".join(model.name for model in MODELS)


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _blocks(text: str) -> list[int]:
    numbers = text.split(",")
    if not all(number.isdecimal() and int(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"{text} is not a list of numbers from 1 on, as 16,64")
    return [int(number) for number in numbers]


def _page_size(text: str) -> int:
    if not text.isdecimal() or int(text) not in PAGE_SIZES:
        raise argparse.ArgumentTypeError(f"{text} is not a number from {PAGE_SIZES[0]} to {PAGE_SIZES[-1]}")
    return int(text)


def _head(plan: Plan) -> dict[str, Any]:
    """Return what holds for all figures."""
    gpu = plan.device.type == "cuda"
    _, unable = contenders(plan.device)
    return {
        "format": FORMAT,
        "device": torch.cuda.get_device_name(plan.device) if gpu else "cpu",
        "note": None if gpu else NO_GPU if torch.version.cuda else f"{NO_GPU}; {NO_CUDA}",
        "layout": plan.layout,
        "page_size": plan.page_size,
        "links": {direction: asdict(link) for direction, link in plan.links.items()},
        "not_measured": unable,
    }


def _print_json(plan: Plan) -> None:
    def tell(model: Model, blocks: int) -> None:
        print(f"measuring {model.name}, {blocks} blocks", file=sys.stderr, flush=True)

    measured: list[dict[str, object]] = []
    left_out: list[dict[str, object]] = []
    for figure in figures(plan, tell):
        if isinstance(figure, LeftOut):
            left_out.append(asdict(figure))
        else:
            measured.append(figure.to_json())
    print(json.dumps(_head(plan) | {"left_out": left_out, "figures": measured}, indent=1))


def _print_table(plan: Plan) -> None:
    head = _head(plan)
    print(f"{head['device']}, {plan.layout} in pages of {plan.page_size}")
    if head["note"]:
        print(head["note"])
    for direction, link in plan.links.items():
        print(f"{direction}: one large copy {link.bulk_bytes_s / 1e9:.1f} GB/s")
    for name, reason in head["not_measured"].items():
        print(f"not measured: {name}: {reason}")
    print(_COLUMNS.format(*_TITLES))
    for figure in figures(plan):
        if isinstance(figure, LeftOut):
            print(f"left out: {figure.model}, {figure.blocks} blocks: {figure.why}", flush=True)
        else:
            print(_row(figure), flush=True)
    print("* the one that would be chosen; alone: both at once, by the slower way alone (1.00: full duplex)")


def _row(figure: Figure) -> str:
    return _COLUMNS.format(
        figure.model,
        figure.direction,
        figure.blocks,
        figure.kernel + "*" * figure.chosen,
        f"{figure.swap_s * 1e3:.3f}",
        f"{figure.bytes_s / 1e9:.2f}",
        f"{figure.link_share:.0%}",
        "" if figure.times_alone is None else f"{figure.times_alone:.2f}",
        figure.launches,
        figure.copies,
    )


if __name__ == "__main__":
    sys.exit(main())
