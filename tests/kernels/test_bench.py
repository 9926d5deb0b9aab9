"""The benchmark measures what it says, small; nothing here looks at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from autellix_kernels import link
from autellix_kernels.bench import run
from autellix_kernels.bench.__main__ import _TITLES, NO_GPU, main
from autellix_kernels.bench.memory import Memory, free_host_bytes
from autellix_kernels.bench.models import MODELS, pools, transfers
from autellix_kernels.bench.run import contenders
from autellix_kernels.cuda import build
from autellix_kernels.layout import HostLayout
from autellix_kernels.select import Choice
from autellix_kernels.transfer import Direction, Work

MLA = MODELS[-1]
WAYS = ("out", "in", "both")


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
    """Out in one transfer and in layer by layer, always the same blocks, and others out than in."""
    both = pools(MLA, HostLayout.PAGE_FIRST, blocks=3, page_size=4, device=torch.device("cpu"))
    (out,) = transfers(*both, 3, Direction.OUT)
    inward = transfers(*both, 3, Direction.IN)
    assert out.layers == range(61)
    assert [part.layers for part in inward] == [range(layer, layer + 1) for layer in range(61)]
    for slots in (out.device_slots, out.host_slots):
        blocks = slots.reshape(3, 4)
        assert (blocks % 4).tolist() == [[0, 1, 2, 3]] * 3
        assert len(set((blocks[:, 0] // 4).tolist())) == 3
    for name in ("device_slots", "host_slots"):
        both_ways = torch.cat([getattr(out, name), getattr(inward[0], name)])
        assert sorted(both_ways.tolist()) == list(range(2 * 3 * 4))
    assert torch.equal(inward[0].host_slots, inward[60].host_slots)


def told(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """Return what the benchmark prints as JSON, for the smallest model."""
    assert main(["--json", "--model", MLA.name, *options]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


@pytest.mark.parametrize("layout", HostLayout)
def test_the_figures_are_of_the_swaps(layout: HostLayout, capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON: bytes, launches and copies are counted, rates follow from times, and a missing GPU is told."""
    said = told(capsys, "--blocks", "2", "--layout", layout, "--page-size", "4")
    links = {direction: link["bulk_bytes_s"] for direction, link in said["links"].items()}
    links["both"] = links["out"] + links["in"]
    figures = {(one["kernel"], one["direction"]): one for one in said["figures"]}
    for one in figures.values():
        assert one["moved_bytes"] == 2 * 4 * MLA.token_bytes * (2 if one["direction"] == "both" else 1)
        assert one["bytes_s"] == pytest.approx(one["moved_bytes"] / one["swap_s"])
        assert one["link_share"] == pytest.approx(one["bytes_s"] / links[one["direction"]])
    assert {one["chosen"] for one in said["figures"]} == {True, False} or build.compiler() is None
    assert figures["reference", "out"]["copies"] == 61
    if build.compiler() is not None:
        for direction in Direction:
            per_block = figures["per-block", direction]
            assert per_block["launches"] == per_block["copies"] == 2 * 61
    if not torch.cuda.is_available():
        assert said["note"].startswith(NO_GPU)
        assert set(said["not_measured"]) >= {"triton", "cuda", "cuda-staged", "batch", "sglang"}


def test_both_ways_at_once_are_beside_each_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Each that is measured alone, and the pair that would be chosen: the work of two, in times of the slower one."""
    said = told(capsys, "--blocks", "1", "--page-size", "2")
    kernels = {way: {one["kernel"]: one for one in said["figures"] if one["direction"] == way} for way in WAYS}
    assert kernels["out"].keys() == kernels["in"].keys() <= kernels["both"].keys()
    assert "reference" in kernels["out"]
    for name, both in kernels["both"].items():
        out, _, inward = name.partition("+")
        apart = [kernels["out"][out], kernels["in"][inward or out]]
        assert [one["times_alone"] for one in apart] == [None, None]
        assert both["times_alone"] == pytest.approx(both["swap_s"] / max(one["swap_s"] for one in apart))
        for counted in ("launches", "copies", "moved_bytes"):
            assert both[counted] == sum(one[counted] for one in apart)


def test_kernels_that_would_be_chosen_are_tried_together(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One out and another in, where that is the choice."""
    if build.compiler() is None:
        pytest.skip("there is no nvcc")
    one_each = {Direction.OUT: Choice("reference", "for a test"), Direction.IN: Choice("per-block", "for a test")}
    monkeypatch.setattr(run, "choice", lambda device_pool, host_pool, direction: one_each[direction])
    figures = told(capsys, "--blocks", "1", "--page-size", "2")["figures"]
    assert [(one["direction"], one["kernel"]) for one in figures if one["chosen"]] == [
        ("out", "reference"),
        ("in", "per-block"),
        ("both", "reference+per-block"),
    ]


def test_what_machines_read_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that goes or changes its meaning makes another format; what is measured is told beside it."""
    assert main(["--json", "--model", MLA.name, "--blocks", "1,100000000"]) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert said["format"] == 1
    assert set(said) == {
        *("format", "device", "note", "layout", "page_size", "links", "not_measured", "left_out", "figures")
    }
    assert set(said["links"]["out"]) == {"bulk_bytes_s", "mapped_bytes_s", "copy_s"}
    assert set(said["figures"][0]) == {
        *("model", "direction", "blocks", "kernel", "chosen", "moved_bytes", "swap_s", "bytes_s", "link_share"),
        *("times_alone", "launches", "copies"),
    }
    (left_out,) = said["left_out"]
    assert (left_out["model"], left_out["blocks"]) == (MLA.name, 100_000_000)
    assert re.match(r"the pools take [\d.]+ GB of host memory, of which [\d.]+ GB are free", left_out["why"])
    assert err == f"measuring {MLA.name}, 1 blocks\nmeasuring {MLA.name}, 100000000 blocks\n"


def test_pools_that_cannot_be_had_are_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that seemed to be free is gone; what is smaller is measured nevertheless."""

    def full(*_: object, blocks: int, **rest: Any) -> Any:
        if blocks > 1:
            raise RuntimeError("CUDA error: out of memory\nand much more")
        return pools(*_, blocks=blocks, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "pools", full)
    said = told(capsys, "--blocks", "2,1", "--page-size", "2")
    assert said["left_out"] == [{"model": MLA.name, "blocks": 2, "why": "CUDA error: out of memory"}]
    assert {one["blocks"] for one in said["figures"]} == {1}


def test_swaps_at_once_have_a_stream_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """That begins with the current one, which goes on when both are done."""
    happened: list[str] = []

    class Stream:
        """One that says whom it waits for."""

        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            """Say that."""
            happened.append(f"{self.name} waits for {other.name}")

    def swap(name: str) -> Work:
        happened.append(f"{name} in {inside[-1]}")
        return Work(launches=1)

    @contextmanager
    def entered(stream: Stream) -> Iterator[None]:
        inside.append(stream.name)
        yield
        inside.pop()

    inside = ["current"]
    monkeypatch.setattr(run, "_streams", lambda device: (Stream("a"), Stream("b")))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("current"))
    monkeypatch.setattr(torch.cuda, "stream", entered)
    work = run.at_once(torch.device("cuda:0"), [lambda: swap("out"), lambda: swap("in")])
    assert work == Work(launches=2)
    assert happened == [
        *("a waits for current", "b waits for current", "out in a", "in in b"),
        *("current waits for a", "current waits for b"),
    ]


def test_memory_of_pools_is_known_before_it_is_taken() -> None:
    """1,024 blocks that go out and as many that come in; torch pins keys and values by powers of two."""
    qwen = next(model for model in MODELS if model.name == "qwen3-32b")
    assert Memory.of_pools(qwen, blocks=1024, page_size=16, pinned=True) == Memory(1 << 33, 1 << 33)
    assert Memory.of_pools(qwen, blocks=1024, page_size=16, pinned=False) == Memory(1 << 34)
    assert Memory.of_pools(MLA, blocks=1024, page_size=16, pinned=True) == Memory(1 << 32, 32768 * 70272)
    need = Memory(8_600_000_000, 8_600_000_000)
    assert need.lacking(Memory(24_000_000_000, 80_000_000_000)) is None
    reason = need.lacking(Memory(9_000_000_000, 80_000_000_000))
    assert reason == "the pools take 8.6 GB of host memory, of which 9.0 GB are free and 1.1 stay so"
    reason = need.lacking(Memory(24_000_000_000, 2_000_000_000))
    assert reason == "the pools take 8.6 GB of the GPU's memory, of which 2.0 GB are free and 1.1 stay so"


def test_free_memory_is_the_machines_or_the_containers(tmp_path: Path) -> None:
    """Whichever is less; what a container holds of files it would give back."""
    assert free_host_bytes(tmp_path) > 1 << 60
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert free_host_bytes(tmp_path) == 8000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    for name, content in (("max", "max"), ("current", "5000"), ("stat", "anon 1000\ninactive_file 4000")):
        (group / f"memory.{name}").write_text(content)
    assert free_host_bytes(tmp_path) == 8000 * 1024
    (group / "memory.max").write_text("6000")
    assert free_host_bytes(tmp_path) == 5000


@pytest.mark.parametrize(("taken_s", "times"), [(0.1, 1 + 5), (1.5, 1 + 2), (60.0, 1 + 1)])
def test_what_takes_long_is_measured_less_often(taken_s: float, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once more than the one that is not counted, at least."""
    called: list[None] = []

    def seconds(action: Callable[[], object], device: torch.device) -> float:
        action()
        return taken_s

    monkeypatch.setattr(link, "_seconds", seconds)
    assert link.fastest_s(lambda: called.append(None), torch.device("cpu")) == taken_s
    assert len(called) == times


def test_the_table_has_a_line_for_each_figure(capsys: pytest.CaptureFixture[str]) -> None:
    """For people; the kernel that would be chosen has a star."""
    assert main(["--model", MLA.name, "--blocks", "1,2,100000000", "--page-size", "2"]) == 0
    table = capsys.readouterr().out
    able, _ = contenders(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    assert len(re.findall(rf"^{MLA.name} ", table, re.MULTILINE)) >= 2 * 3 * (len(able) - 1)
    assert re.search(r"^deepseek-v3 +out +1 \w[\w-]*\* ", table, re.MULTILINE)
    assert re.search(r"^deepseek-v3 +both +1 reference\*? +[\d.]+ +[\d.]+ +\d+% +\d+\.\d\d ", table, re.MULTILINE)
    assert re.search(r"^left out: deepseek-v3, 100000000 blocks: the pools take ", table, re.MULTILINE)


@pytest.mark.parametrize(
    "wrong",
    [
        *(["--page-size", "65"], ["--page-size", "x"], ["--blocks", "0"], ["--blocks", "x"], ["--blocks", "1,"]),
        *(["--model", "gpt"], ["--layout", "x"]),
    ],
)
def test_wrong_options_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """By name, and with what they may be."""
    with pytest.raises(SystemExit, match="2"):
        main(wrong)
    said = capsys.readouterr().err
    assert wrong[0] in said
    assert re.search(r"from 1 to 64|from 1 on, as 16,64|choose from", said)


def test_help_explains_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    """And fits a terminal of 110 columns."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(re.search(rf"^  .*{title}", said, re.MULTILINE) for title in _TITLES[1:] if title != "blocks")
    assert max(len(line) for line in said.splitlines()) <= 110
