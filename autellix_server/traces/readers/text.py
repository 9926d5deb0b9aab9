"""What readers of texts share: counting tokens, and IDs from other people's names."""

from __future__ import annotations

import re
from collections.abc import Callable

from autellix_server.traces.model import MAX_PROGRAM_ID

TokenCounter = Callable[[str], int]
"""Returns how many tokens a text has."""

BYTES_PER_TOKEN = 4


def estimate_tokens(text: str) -> int:
    """Return the length of a text in tokens at four bytes each, rounded up: right within a third for English."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def program_id(prefix: str, name: str) -> str:
    """Return a program ID from any name; characters that an ID cannot have become ``-``."""
    return (prefix + re.sub(r"[^A-Za-z0-9._-]", "-", name))[:MAX_PROGRAM_ID]
