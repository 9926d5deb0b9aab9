"""What Triton makes of its kernel for a GPU, which takes no GPU; what the kernel does is in the conformance suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from autellix_kernels.errors import KernelUnavailable
from autellix_kernels.swap import swap_out
from autellix_kernels.transfer import Geometry
from autellix_kernels.triton_swap import Tile

from tests.kernels.shapes import KINDS, pools

COMPILE = """
import json, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from autellix_kernels.triton_kernels import swap_rows

capability, constants = int(sys.argv[1]), json.loads(sys.argv[2])
kinds = dict.fromkeys(swap_rows.arg_names, "i64") | dict.fromkeys(constants, "constexpr")
kinds |= dict.fromkeys(("device_addresses", "device_slots", "host_slots"), "*i64")
source = ASTSource(swap_rows, kinds, {(swap_rows.arg_names.index(name),): value for name, value in constants.items()})
print(triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"])
""".replace("import json, sys", "import json, sys, triton")


def geometry(row_bytes: int, access: int) -> Geometry:
    """Return a component with rows of so many bytes."""
    return Geometry(row_bytes, access, row_bytes, 0, row_bytes, row_bytes, row_bytes)


@pytest.mark.parametrize("out", [True, False], ids=["out", "in"])
@pytest.mark.parametrize("capability", [80, 90])
def test_rows_of_16_bytes_are_copied_by_accesses_of_16_bytes(capability: int, out: bool, tmp_path: Path) -> None:
    """Two words of 8 each, loads and stores."""
    tile = Tile.of(geometry(2048, 16), 8192)
    constants = {
        "ROW_WORDS": tile.row_words,
        "TILE_WORDS": tile.words,
        "TILE_ROWS": tile.rows,
        "WORD_BYTES": tile.word_bytes,
        "PAIRED": tile.paired,
        "OUT": out,
    }
    compiled = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    compiled["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", COMPILE, str(capability), json.dumps(constants)]
    ptx = subprocess.run(command, env=compiled, check=True, capture_output=True, text=True).stdout
    assert f".target sm_{capability}" in ptx
    assert "ld.global.v2.b64" in ptx
    assert "st.global.v2.b64" in ptx
    assert "st.global.b64" not in ptx


@pytest.mark.parametrize(
    ("row_bytes", "access", "expected"),
    [
        (2048, 16, Tile(8, True, 256, 256, 4)),
        (1152, 16, Tile(8, True, 144, 256, 4)),
        (40, 8, Tile(8, False, 5, 8, 128)),
        (6, 2, Tile(2, False, 3, 4, 1024)),
        (7, 1, Tile(1, False, 7, 8, 1024)),
        (32768, 16, Tile(8, True, 4096, 4096, 1)),
    ],
)
def test_a_tile_has_words_as_wide_as_rows_allow(row_bytes: int, access: int, expected: Tile) -> None:
    """And as many rows as fit into 8 KiB, at least one."""
    assert Tile.of(geometry(row_bytes, access), 8192) == expected


def test_without_a_gpu_and_the_interpreter_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the way to have it nevertheless."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    device_pool, host_pool = pools(KINDS[0], "page_first")
    slots = torch.tensor([0])
    with pytest.raises(KernelUnavailable, match=r"triton cannot run on cpu: .* set TRITON_INTERPRET=1"):
        swap_out(device_pool, host_pool, slots, slots, kernel="triton")
