"""The benchmark measures what it says, small; nothing here looks at a time."""

from __future__ import annotations

import json
import re

import pytest
import torch
from autellix_kernels.bench.__main__ import NO_GPU, main
from autellix_kernels.bench.models import MODELS, pools, transfers
from autellix_kernels.bench.run import contenders
from autellix_kernels.cuda import build
from autellix_kernels.layout import HostLayout
from autellix_kernels.transfer import Direction

MLA = MODELS[-1]
GQA = MODELS[0]


def test_shapes_are_those_of_the_models() -> None:
    """KV of a token, in bytes."""
    assert {model.name: model.token_bytes for model in MODELS} == {
        "llama-3.1-8b": 131_072,
        "llama-3.1-8b-fp8": 65_536,
        "llama-3.1-70b-tp4": 81_920,
        "qwen3-32b": 262_144,
        "deepseek-v3": 70_272,
    }


def test_a_swap_is_whole_blocks_in_any_order() -> None:
    """Out in one transfer and in layer by layer, always the same blocks."""
    both = pools(MLA, HostLayout.PAGE_FIRST, blocks=3, page_size=4, device=torch.device("cpu"))
    (out,) = transfers(*both, 3, Direction.OUT)
    inward = transfers(*both, 3, Direction.IN)
    assert out.layers == range(61)
    assert [part.layers for part in inward] == [range(layer, layer + 1) for layer in range(61)]
    for slots in (out.device_slots, out.host_slots):
        blocks = slots.reshape(3, 4)
        assert (blocks % 4).tolist() == [[0, 1, 2, 3]] * 3
        assert len(set((blocks[:, 0] // 4).tolist())) == 3
    assert torch.equal(out.host_slots, inward[0].host_slots)


@pytest.mark.parametrize("layout", HostLayout)
def test_the_figures_are_of_the_swaps(layout: HostLayout, capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON: bytes, launches and copies are counted, rates follow from times, and a missing GPU is told."""
    assert main(["--json", "--model", MLA.name, "--blocks", "2", "--layout", layout, "--page-size", "4"]) == 0
    told = json.loads(capsys.readouterr().out)
    figures = {(one["kernel"], one["direction"]): one for one in told["figures"]}
    for one in figures.values():
        assert one["moved_bytes"] == 2 * 4 * MLA.token_bytes
        assert one["bytes_s"] == pytest.approx(one["moved_bytes"] / one["swap_s"])
        assert one["link_share"] == pytest.approx(one["bytes_s"] / told["links"][one["direction"]]["bulk_bytes_s"])
    assert {one["chosen"] for one in told["figures"]} == {True, False} or build.compiler() is None
    assert figures["reference", "out"]["copies"] == 61
    if build.compiler() is not None:
        for direction in Direction:
            per_block = figures["per-block", direction]
            assert per_block["launches"] == per_block["copies"] == 2 * 61
    if not torch.cuda.is_available():
        assert told["note"] == NO_GPU
        assert set(told["not_measured"]) >= {"triton", "cuda", "cuda-staged", "batch", "sglang"}


def test_the_table_has_a_line_for_each_figure(capsys: pytest.CaptureFixture[str]) -> None:
    """For people; the kernel that would be chosen has a star."""
    assert main(["--model", MLA.name, "--blocks", "1,2", "--page-size", "2"]) == 0
    table = capsys.readouterr().out
    able, _ = contenders(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    assert len(re.findall(rf"^{MLA.name} ", table, re.MULTILINE)) >= 2 * 2 * (len(able) - 1)
    assert re.search(r"^deepseek-v3 +out +1 \w[\w-]*\* ", table, re.MULTILINE)


@pytest.mark.parametrize("wrong", [["--page-size", "65"], ["--blocks", "0"], ["--model", "gpt"], ["--layout", "x"]])
def test_wrong_options_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """By name."""
    with pytest.raises(SystemExit, match="2"):
        main(wrong)
    assert wrong[0] in capsys.readouterr().err
