"""How many bytes of weights one decode step reads: every matrix once, whatever the size of the batch.

True of dense models: of a mixture of experts a step may read less. Embeddings are rows that are looked up, so they
count only where the same table gives the logits.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from autellix_server.errors import EngineFailure

_EMBEDDINGS = ("model.embed_tokens.weight", "token_embd.weight")
_LOGITS = ("lm_head.weight", "output.weight")
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""GGUF's types of values, by their number; strings and arrays aside."""

_ALIGNMENT = 32


def model_step_bytes(folder: Path) -> int | None:
    """Return the bytes that a step reads of a model folder's safetensors files, as they are stored.

    Returns:
        `None` where there are none.

    Raises:
        EngineFailure: a file cannot be read.
    """
    try:
        sizes = {name: size for file in sorted(folder.glob("*.safetensors")) for name, size in _safetensors(file)}
        tied = bool(json.loads((folder / "config.json").read_text()).get("tie_word_embeddings")) if sizes else False
    except (OSError, OverflowError, ValueError, KeyError, TypeError, struct.error) as error:
        raise EngineFailure(f"the weights in {folder} cannot be read: {error}") from error
    return _step_bytes(sizes, tied) if sizes else None


def gguf_step_bytes(file: Path) -> int:
    """Return the bytes that a step reads of a GGUF file, as they are stored.

    Raises:
        EngineFailure: it cannot be read.
    """
    try:
        sizes = dict(_gguf(file))
    except (OSError, OverflowError, ValueError, KeyError, struct.error) as error:
        raise EngineFailure(f"{file} is no GGUF file that can be read: {error}") from error
    return _step_bytes(sizes, tied=not any(name in sizes for name in _LOGITS))


def _step_bytes(sizes: Mapping[str, int], tied: bool) -> int:
    not_read = _LOGITS if tied and any(name in sizes for name in _EMBEDDINGS) else _EMBEDDINGS
    return sum(size for name, size in sizes.items() if name not in not_read)


def _safetensors(file: Path) -> Iterator[tuple[str, int]]:
    """Yield names and sizes of the tensors in a file, from its header."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header: dict[str, Any] = json.loads(stream.read(length))
    for name, tensor in header.items():
        if name != "__metadata__":
            begin, end = tensor["data_offsets"]
            yield name, end - begin


def _gguf(file: Path) -> Iterator[tuple[str, int]]:
    """Yield names and sizes of the tensors in a file: from where one begins to where the next does."""
    with file.open("rb") as stream:
        magic, _version, tensors, values = struct.unpack("<4sIQQ", stream.read(24))
        if magic != b"GGUF":
            raise ValueError("it does not begin as one")
        metadata = {_string(stream): _value(stream, _number(stream, "<I")) for _ in range(values)}
        begins = {}
        for _ in range(tensors):
            name = _string(stream)
            stream.seek(8 * _number(stream, "<I") + 4, 1)  # its dimensions and its type
            begins[_number(stream, "<Q")] = name
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        data = -(-stream.tell() // alignment) * alignment
    offsets = [*sorted(begins), file.stat().st_size - data]
    for begin, end in pairwise(offsets):
        yield begins[begin], end - begin


def _value(stream: BinaryIO, kind: int) -> Any:
    """Read a value of GGUF's metadata; arrays are passed over."""
    if kind == _STRING:
        return _string(stream)
    if kind != _ARRAY:
        return _number(stream, _SCALARS[kind])
    of, length = _number(stream, "<I"), _number(stream, "<Q")
    if of in (_STRING, _ARRAY):
        for _ in range(length):
            _value(stream, of)
    else:
        stream.seek(struct.calcsize(_SCALARS[of]) * length, 1)
    return None


def _string(stream: BinaryIO) -> str:
    return stream.read(_number(stream, "<Q")).decode("utf-8")


def _number(stream: BinaryIO, layout: str) -> int:
    (number,) = struct.unpack(layout, stream.read(struct.calcsize(layout)))
    return int(number)
