"""Bytes of weights that a decode step reads, from the headers of both kinds of files."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from autellix_server.engine_bench.weights import gguf_step_bytes, model_step_bytes
from autellix_server.errors import EngineFailure

LAYER = {"model.layers.0.mlp.up_proj.weight": 100}
EMBEDDINGS = {"model.embed_tokens.weight": 1000}
LOGITS = {"lm_head.weight": 2000}


def write_safetensors(file: Path, sizes: Mapping[str, int]) -> None:
    """Write a file of tensors of so many bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, size in sizes.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def model(folder: Path, tied: bool | None, *files: Mapping[str, int]) -> Path:
    """Return a model folder."""
    for number, sizes in enumerate(files):
        write_safetensors(folder / f"model-{number}.safetensors", sizes)
    (folder / "config.json").write_text(json.dumps({} if tied is None else {"tie_word_embeddings": tied}))
    return folder


@pytest.mark.parametrize(
    ("tied", "files", "read"),
    [
        (True, [LAYER | EMBEDDINGS], 1100),
        (True, [LAYER | EMBEDDINGS | LOGITS], 1100),
        (False, [LAYER | EMBEDDINGS | LOGITS], 2100),
        (None, [LAYER, EMBEDDINGS | LOGITS], 2100),
    ],
)
def test_embeddings_count_where_they_give_the_logits(
    tmp_path: Path, tied: bool | None, files: list[dict[str, int]], read: int
) -> None:
    """Once, however often they are stored; where a matrix of its own gives the logits, not at all."""
    assert model_step_bytes(model(tmp_path, tied, *files)) == read


def test_a_folder_without_safetensors_is_not_known(tmp_path: Path) -> None:
    """Such as that of a model that has yet to be downloaded."""
    assert model_step_bytes(tmp_path) is None


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    """Rather than counted as far as it goes."""
    model(tmp_path, True)
    (tmp_path / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(EngineFailure, match="cannot be read"):
        model_step_bytes(tmp_path)


def text(words: str) -> bytes:
    """Return a string as GGUF has it."""
    return struct.pack("<Q", len(words)) + words.encode()


def write_gguf(file: Path, sizes: Mapping[str, int], alignment: int | None) -> None:
    """Write a file of tensors of so many bytes, multiples of the alignment, in the opposite order of their names."""
    words = text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    numbers = text("scores") + struct.pack("<IIQ", 9, 6, 3) + struct.pack("<3f", 1, 2, 3)
    values = [
        text("name") + struct.pack("<I", 8) + text("tiny"),
        words,
        numbers,
        text("yes") + struct.pack("<I?", 7, 1),
    ]
    if alignment is not None:
        values.append(text("general.alignment") + struct.pack("<II", 4, alignment))
    infos, at = [], 0
    for name, size in reversed(sizes.items()):
        infos.append((name, at))
        at += size
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(sizes), len(values)) + b"".join(values)
    for name in sizes:
        head += text(name) + struct.pack("<IQQIQ", 2, 8, 8, 0, dict(infos)[name])
    aligned = alignment or 32
    file.write_bytes(head + bytes(-len(head) % aligned) + bytes(at))


@pytest.mark.parametrize("alignment", [None, 64])
@pytest.mark.parametrize(("output", "read"), [({}, 1088), ({"output.weight": 1984}, 2048)])
def test_gguf_files_are_read_like_safetensors(
    tmp_path: Path, alignment: int | None, output: dict[str, int], read: int
) -> None:
    """Metadata of every kind is passed over; the data begins where the file says that it is aligned."""
    file = tmp_path / "tiny.gguf"
    write_gguf(file, {"blk.0.ffn_up.weight": 64, "token_embd.weight": 1024, **output}, alignment)
    assert gguf_step_bytes(file) == read


@pytest.mark.parametrize("content", [b"", b"GGML" + bytes(20), b"GGUF" + b"\xff" * 40])
def test_what_is_no_gguf_file_is_named(tmp_path: Path, content: bytes) -> None:
    """Empty, of another kind, or broken."""
    file = tmp_path / "tiny.gguf"
    file.write_bytes(content)
    with pytest.raises(EngineFailure, match=r"tiny\.gguf is no GGUF file that can be read"):
        gguf_step_bytes(file)
