"""Convert a GGUF model to the folder format that SGLang serves. Run by the engine's Python, see `engine/model.py`."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(gguf: Path, output: Path) -> None:
    """Write the model in `gguf`, dequantized to bfloat16, and its tokenizer into the folder `output`.

    Raises:
        SystemExit: the tokenizer carries no chat template, so the model could not be talked to.
    """
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    print("reading the tokenizer", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    if not tokenizer.chat_template:
        raise SystemExit(f"{gguf.name} has no chat template")
    tokenizer.save_pretrained(output)
    print("reading the weights", flush=True)
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    print("writing the model", flush=True)
    model.save_pretrained(output)


def main() -> None:
    """Convert as the command line says and print the versions of the converters as the last line, in JSON."""
    parser = argparse.ArgumentParser(description=convert.__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    convert(arguments.gguf, arguments.output)
    print(json.dumps({name: version(name) for name in ("torch", "transformers", "gguf")}))


if __name__ == "__main__":
    main()
