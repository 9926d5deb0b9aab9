"""SGLang's own Llama, the architecture of the bundled model."""

from __future__ import annotations

from sglang.srt.models.llama import LlamaForCausalLM

EntryClass = LlamaForCausalLM
