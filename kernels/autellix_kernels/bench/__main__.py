"""`python -m autellix_kernels.bench [--json]`: rates of swaps, by kernel, model and number of blocks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from autellix_kernels.bench.models import MODELS
from autellix_kernels.bench.run import BLOCKS, HOST_BLOCKS, HOST_BULK_BYTES, Figure, Plan, contenders, figures
from autellix_kernels.layout import PAGE_SIZES, HostLayout
from autellix_kernels.link import BULK_BYTES, measure
from autellix_kernels.transfer import Direction
from autellix_sdk.errors import AutellixError

NO_GPU = "no GPU: both pools are in the same memory, calls are small, and the figures say nothing about a GPU"
_COLUMNS = "{:<18} {:<4} {:>6} {:<12} {:>9} {:>9} {:>6} {:>9} {:>9}"
_TITLES = ("model", "way", "blocks", "kernel", "ms", "GB/s", "link", "launches", "copies")


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
        print(f"error: {error}; choose fewer --blocks or one --model", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m autellix_kernels.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--model", choices=[model.name for model in MODELS], help="one model (default: all)")
    parser.add_argument("--blocks", type=_blocks, help="blocks of a call, as 16,64 (default: up to 1024 on a GPU)")
    parser.add_argument("--layout", choices=list(HostLayout), default="page_first", help="of the host (%(default)s)")
    parser.add_argument("--page-size", type=_page_size, default=16, help="tokens in a block, 1 to 64 (%(default)s)")
    return parser


def _blocks(text: str) -> list[int]:
    numbers = [int(number) for number in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text} has a number below 1")
    return numbers


def _page_size(text: str) -> int:
    if int(text) not in PAGE_SIZES:
        raise argparse.ArgumentTypeError(f"{text} is not {PAGE_SIZES[0]} to {PAGE_SIZES[-1]}")
    return int(text)


def _head(plan: Plan) -> dict[str, Any]:
    """Return what holds for all figures."""
    name = torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else "cpu"
    _, unable = contenders(plan.device)
    return {
        "device": name,
        "note": None if plan.device.type == "cuda" else NO_GPU,
        "layout": plan.layout,
        "page_size": plan.page_size,
        "links": {direction: asdict(link) for direction, link in plan.links.items()},
        "not_measured": unable,
    }


def _print_json(plan: Plan) -> None:
    print(json.dumps(_head(plan) | {"figures": [figure.to_json() for figure in figures(plan)]}, indent=1))


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
        print(_row(figure), flush=True)
    print("* the one that would be chosen")


def _row(figure: Figure) -> str:
    return _COLUMNS.format(
        figure.model,
        figure.direction,
        figure.blocks,
        figure.kernel + "*" * figure.chosen,
        f"{figure.swap_s * 1e3:.3f}",
        f"{figure.bytes_s / 1e9:.2f}",
        f"{figure.link_share:.0%}",
        figure.launches,
        figure.copies,
    )


if __name__ == "__main__":
    sys.exit(main())
