"""Prompts for a real engine from counts alone: what shares a prefix in the trace shares it here, and nothing else does.

Every prompt is a row of pieces, each the beginning of an endless stream of tokens that depends on the piece's name
alone. A call repeats the pieces of the call that it shares with, cut to the shared length, and goes on with a stream
of its own. Programs with the same opening begin with the same stream.

Two streams agree on a token by chance, once in as many as there are different tokens, so what is shared may turn out
a token longer than in the trace; it is never shorter.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autellix_server.traces.model import TraceCall, TraceProgram
from autellix_server.traces.vocabulary import VOCABULARY


@dataclass(frozen=True, slots=True)
class Piece:
    """The first tokens of a stream.

    Attributes:
        kind: ``opening`` (shared between programs), ``prompt`` (a call's own) or ``output`` (what a call answered).
        name: the opening's name, or the call's ID.
        tokens: how many of the stream's tokens are taken, 1 or more.
    """

    kind: Literal["opening", "prompt", "output"]
    name: str
    tokens: int


Layout = tuple[Piece, ...]
"""A prompt as pieces; equal beginnings are equal pieces."""


def lay_out(program: TraceProgram) -> dict[str, Layout]:
    """Return the prompt of every call as pieces, by call ID.

    The format says how much a call shares, not with which call; `_Sources` says which one is taken. The first call of
    each role, if it shares nothing inside its program, begins with the program's opening.
    """
    sources = _Sources()
    layouts: dict[str, Layout] = {}
    opened: set[str | None] = set()
    for call in program.calls:
        source = sources.of(call)
        shared: Layout = ()
        if source is not None:
            whole = (*layouts[source.id], Piece("output", source.id, source.output_tokens))
            shared = _cut(whole, call.shared_prefix_tokens)
        elif call.role not in opened:
            opening = Piece("opening", f"{program.opening_name}/{call.role or ''}", program.opening_tokens)
            shared = _cut((opening,), call.prompt_tokens)
        own = call.prompt_tokens - sum(piece.tokens for piece in shared)
        layouts[call.id] = (*shared, Piece("prompt", call.id, own)) if own else shared
        opened.add(call.role)
        sources.add(call)
    return layouts


class PromptBook:
    """The prompts of one program, as text or as token IDs.

    Args:
        program: a checked program.
        salt: another salt gives other words, openings included: what ran before leaves no cache hits behind.
    """

    def __init__(self, program: TraceProgram, salt: str = "") -> None:
        self._program = program
        self._salt = salt
        self._layouts = lay_out(program)
        self._output_tokens = {call.id: call.output_tokens for call in program.calls}
        self._longest: dict[tuple[str, str], int] = {}
        for piece in (piece for layout in self._layouts.values() for piece in layout):
            key = (piece.kind, piece.name)
            self._longest[key] = max(self._longest.get(key, 0), piece.tokens)
        self._drawn: dict[tuple[str, str], list[int]] = {}

    def text(self, call_id: str, outputs: Mapping[str, str] | None = None) -> str:
        """Return a prompt as text: words of `VOCABULARY`, each after a space, so that one word is about one token.

        Args:
            call_id: a call of the program.
            outputs: what the engine really answered, by call ID; taken over as it is, so that its KV is found again.
                Where a prompt repeats only a part of an output, the same part of its characters is taken; answers
                that are not given are made of words too.
        """
        known = outputs or {}
        return "".join(self._text(piece, known) for piece in self._layouts[call_id])

    def token_ids(
        self, call_id: str, ids: Sequence[int], outputs: Mapping[str, Sequence[int]] | None = None
    ) -> list[int]:
        """Return a prompt as token IDs: exactly as long as the trace says.

        Args:
            call_id: a call of the program.
            ids: the token IDs to draw from, such as ``range(1000, 20000)``: none that is special to the model.
            outputs: IDs that the engine really answered, by call ID; answers that are missing or too short are made
                up to length.
        """
        known = outputs or {}
        prompt: list[int] = []
        for piece in self._layouts[call_id]:
            answered = known.get(piece.name, ()) if piece.kind == "output" else ()
            prompt += answered[: piece.tokens]
            prompt += (ids[draw % len(ids)] for draw in self._draws(piece)[len(answered) :])
        return prompt

    def _text(self, piece: Piece, outputs: Mapping[str, str]) -> str:
        if piece.kind == "output" and piece.name in outputs:
            answered = outputs[piece.name]
            return answered[: len(answered) * piece.tokens // self._output_tokens[piece.name]]
        return "".join(" " + VOCABULARY[draw % len(VOCABULARY)] for draw in self._draws(piece))

    def _draws(self, piece: Piece) -> list[int]:
        """Return the piece's tokens as large random numbers, which the caller reduces to its own alphabet."""
        key = (piece.kind, piece.name)
        if key not in self._drawn:
            owner = "" if piece.kind == "opening" else self._program.program_id
            rng = random.Random("/".join((self._salt, owner, *key)))
            self._drawn[key] = [rng.getrandbits(32) for _ in range(self._longest[key])]
        return self._drawn[key][: piece.tokens]


class _Sources:
    """Finds the earlier call that a call shares its prefix with, from lengths alone.

    Best is a call whose prompt, or prompt and output, is exactly the shared part; then a parent of the same role, the
    latest call of the same role, a parent, and the latest call, each only if it is long enough.
    """

    def __init__(self) -> None:
        self._calls: dict[str, TraceCall] = {}
        self._by_prompt: dict[int, TraceCall] = {}
        self._by_history: dict[int, TraceCall] = {}

    def add(self, call: TraceCall) -> None:
        """Let later calls share with this one."""
        self._calls[call.id] = call
        self._by_prompt[call.prompt_tokens] = call
        self._by_history[call.history_tokens] = call

    def of(self, call: TraceCall) -> TraceCall | None:
        """Return the source of what the call shares; `None` when it shares nothing."""
        shared = call.shared_prefix_tokens
        if not shared:
            return None
        exact = self._by_prompt.get(shared) or self._by_history.get(shared)
        if exact is not None:
            return exact
        parents = [self._calls[parent] for parent in call.parents]
        latest_first = reversed(self._calls.values())
        long_enough = [earlier for earlier in (*parents, *latest_first) if earlier.history_tokens >= shared]
        return next((earlier for earlier in long_enough if earlier.role == call.role), long_enough[0])


def _cut(layout: Layout, tokens: int) -> Layout:
    """Return the first `tokens` of a layout; pieces of no length are left out."""
    kept: list[Piece] = []
    for piece in layout:
        taken = min(piece.tokens, tokens)
        if taken:
            kept.append(replace(piece, tokens=taken))
        tokens -= taken
    return tuple(kept)
