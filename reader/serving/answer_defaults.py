"""How questions are answered unless asked otherwise; a module of its own, so that commands can show it at once."""

from __future__ import annotations

from typing import Final

DEFAULT_CANDIDATES: Final = 40
"""Passages read of each query (m)."""

DEFAULT_SELECT: Final = 10
"""Passages kept for the decoder after re-ranking (k)."""

DEFAULT_ANSWER_TOKENS: Final = 32
"""Tokens of the longest answer."""
