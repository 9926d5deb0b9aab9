"""Run in the engine's environment: what transformers itself answers, and how likely it finds given tokens.

Takes one JSON object on standard input and prints one as the last line; see `tests.integration.reference`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(folder: str, dtype: torch.dtype) -> Any:
    """Return the model in `dtype`, with no token that ends an answer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.generation_config.eos_token_id = None
    return model


def generate(folder: str, cases: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    """Answer each case greedily in float32, one at a time and without a cache of earlier ones."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), load(folder, torch.float32)
    found: list[dict[str, Any]] = []
    for case in cases:
        own = tokenizer(case["text"])["input_ids"][: case["length"]]
        earlier = [] if case["after"] is None else found[case["after"]]["prompt"] + found[case["after"]]["output"]
        prompt = earlier + own
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        likeliest = torch.cat(out.logits).topk(2).values
        leads = (likeliest[:, 0] - likeliest[:, 1]).tolist()
        found.append({"prompt": prompt, "output": out.sequences[0, len(prompt) :].tolist(), "leads": leads})
    return {"answers": found}


def score(folder: str, told: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the log probability of each token of prompts and answers but the first, in both precisions."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sequences = [tokenizer(one["prompt"])["input_ids"] + one["output"] for one in told]
    found = {}
    for name, dtype in {"float32": torch.float32, "bfloat16": torch.bfloat16}.items():
        model = load(folder, dtype)
        found[name] = [_logprobs(model, sequence) for sequence in sequences]
    return found


def _logprobs(model: Any, sequence: list[int]) -> list[float]:
    ids = torch.tensor([sequence])
    logits = model(ids).logits[0, :-1].float()
    chosen: list[float] = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].tolist()
    return chosen


def main() -> None:
    """Do as standard input says."""
    asked = json.load(sys.stdin)
    folder = asked["model"]
    with torch.inference_mode():
        done = generate(folder, asked["cases"], asked["tokens"]) if "cases" in asked else score(folder, asked["score"])
    print(json.dumps(done))


main()
