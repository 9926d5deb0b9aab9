"""Llamas of random weights and any size, with the bundled model's tokenizer: made on the spot, nothing is fetched."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autellix_server.engine.home import Device, Home
from autellix_server.engine.model import BundledModel


@dataclass(frozen=True)
class Shape:
    """A Llama to be.

    Attributes:
        layers: number of layers.
        width: hidden size.
        inner: width between the two halves of a layer's second part.
        heads: attention heads; a divisor of `width`.
        kv_heads: heads of keys and values; a divisor of `heads`.
        dtype: of the weights in the files.
        gain: standard deviation of a matrix's outputs for inputs of standard deviation 1. Rounding grows through the
            layers by its power: 2 in a deep model makes every answer chaotic.
    """

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    dtype: Literal["float32", "bfloat16"]
    gain: float

    def config(self, tokenizer: dict[str, object]) -> dict[str, object]:
        """Return its configuration file, completed by what that of the tokenizer's model says of tokens."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 16384,
            "tie_word_embeddings": False,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "dtype": self.dtype,
            **{name: tokenizer[name] for name in ("vocab_size", "bos_token_id", "eos_token_id")},
        }


TINY = Shape(layers=2, width=128, inner=256, heads=4, kv_heads=2, dtype="float32", gain=2)
"""Starts in half a minute on a CPU; unlike the bundled model with its nine heads it can be split in two."""

EIGHT_B = Shape(layers=32, width=4096, inner=14336, heads=32, kv_heads=8, dtype="bfloat16", gain=1)
"""As large as a Llama of 8 billion parameters but for its smaller vocabulary: 15 GB of files."""

# Layer by layer, so that no more than one of them is ever in memory.
_WRITE_WEIGHTS = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
folder, device, gain = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
config = json.loads((folder / "config.json").read_text())
width, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
kv_width = width * config["num_key_value_heads"] // config["num_attention_heads"]
dtype = getattr(torch, config["dtype"])
random = torch.Generator(device).manual_seed(0)
def weights(rows, columns):
    drawn = torch.randn(rows, columns, generator=random, device=device) * (gain / columns**0.5)
    return drawn.to("cpu", dtype)
def ones():
    return torch.ones(width, dtype=dtype)
def save(name, tensors):
    save_file({f"{key}.weight": tensor for key, tensor in tensors.items()}, folder / name, metadata={"format": "pt"})
for number in range(config["num_hidden_layers"]):
    layer = f"model.layers.{number}"
    tensors = {f"{layer}.{name}": ones() for name in ("input_layernorm", "post_attention_layernorm")}
    for name, rows in {"q": width, "k": kv_width, "v": kv_width, "o": width}.items():
        tensors[f"{layer}.self_attn.{name}_proj"] = weights(rows, width)
    for name, shape in {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}.items():
        tensors[f"{layer}.mlp.{name}_proj"] = weights(*shape)
    save(f"model-layer-{number:02}.safetensors", tensors)
ends = {name: weights(vocabulary, width) for name in ("model.embed_tokens", "lm_head")}
save("model-ends.safetensors", ends | {"model.norm": ones()})
"""


def random_llama(engine_python: Path, folder: Path, shape: Shape, device: Device = "cpu") -> Path:
    """Put a model of random weights, with the bundled one's tokenizer, into `folder`, and return that.

    Args:
        engine_python: interpreter of an engine environment for `device`.
        folder: an existing one, with room for the model.
        shape: how large it is.
        device: where the weights are drawn: eight billion take minutes on a CPU.
    """
    bundled = BundledModel(Home.from_environment()).path
    for file in bundled.glob("*token*.json"):
        shutil.copy(file, folder)
    config = shape.config(json.loads((bundled / "config.json").read_text()))
    (folder / "config.json").write_text(json.dumps(config))
    subprocess.run([engine_python, "-c", _WRITE_WEIGHTS, folder, device, str(shape.gain)], check=True)
    return folder
