"""Prompt lengths in tokens, estimated from bytes by what engines report afterwards. Nothing is ever tokenized."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

DEFAULT_BYTES_PER_TOKEN = 4.0
"""What is assumed before the first report: English text, JSON around it included."""

LEAST_BYTES_PER_TOKEN = 1.0
MOST_BYTES_PER_TOKEN = 16.0
"""No text has so few or so many: what lies outside is no text, an image for example, and is cut to this."""

_MAX_MODELS = 1024


@dataclass(slots=True)
class _Learned:
    body_bytes: float
    prompt_tokens: float

    @property
    def bytes_per_token(self) -> float:
        return self.body_bytes / self.prompt_tokens


class TokenEstimate:
    """Learns for each model how many bytes of a request body make a prompt token. One thread.

    Args:
        weight: of the latest report, over 0 and up to 1; the rest is the past. Reports count by their tokens, so that
            bodies with hardly any text in them teach little.
    """

    def __init__(self, weight: float = 0.05) -> None:
        self._weight = weight
        self._models: OrderedDict[str, _Learned] = OrderedDict()

    def bytes_per_token(self, model: str) -> float:
        """Return the ratio for `model`; the default if there was no report of it yet."""
        learned = self._models.get(model)
        return DEFAULT_BYTES_PER_TOKEN if learned is None else learned.bytes_per_token

    def tokens(self, model: str, body_bytes: int) -> int:
        """Return the estimated prompt length of a body of so many bytes, 0 or more."""
        return round(body_bytes / self.bytes_per_token(model))

    def learn(self, model: str, body_bytes: int, prompt_tokens: int) -> None:
        """Take note of what an engine reported for a body; without prompt tokens it is ignored.

        Names of models come from clients: no more than 1024 are remembered, the latest.
        """
        if prompt_tokens <= 0:
            return
        least, most = prompt_tokens * LEAST_BYTES_PER_TOKEN, prompt_tokens * MOST_BYTES_PER_TOKEN
        size = min(max(float(body_bytes), least), most)
        learned = self._models.pop(model, None) or _Learned(size, prompt_tokens)
        learned.body_bytes += self._weight * (size - learned.body_bytes)
        learned.prompt_tokens += self._weight * (prompt_tokens - learned.prompt_tokens)
        self._models[model] = learned
        if len(self._models) > _MAX_MODELS:
            self._models.popitem(last=False)

    def learned(self) -> dict[str, list[float]]:
        """Return all that was learned, for `restore`, in values that JSON has."""
        return {model: [row.body_bytes, row.prompt_tokens] for model, row in self._models.items()}

    def restore(self, learned: object) -> None:
        """Take up what `learned` returned earlier; what makes no sense is left out."""
        for model, row in learned.items() if isinstance(learned, dict) else ():
            try:
                body_bytes, prompt_tokens = map(float, row)
            except (TypeError, ValueError):
                continue
            if (
                body_bytes > 0
                and prompt_tokens > 0
                and LEAST_BYTES_PER_TOKEN <= body_bytes / prompt_tokens <= MOST_BYTES_PER_TOKEN
            ):
                self._models[str(model)] = _Learned(body_bytes, prompt_tokens)
