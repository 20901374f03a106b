"""How long a text may be: what was typed, the usual length, or the model's own limit."""

from __future__ import annotations

from ravan_edge.artifact.manifest import TextSettings
from ravan_edge.errors import UsageError

__all__ = ["LENGTH_HELP", "USUAL_LENGTH", "length_notice", "text_length"]


USUAL_LENGTH = 128
"""The most tokens of a row where nobody says how many."""

LENGTH_HELP = (
    f"Most tokens of a text; longer ones are cut. Default: {USUAL_LENGTH}, or what the model takes "
    "where that is less."
)


def text_length(
    text: TextSettings | None, typed: int | None, *, where: str = "--max-length"
) -> int:
    """The most tokens of a row.

    Args:
        text: The manifest's; None: the model reads no texts, and nothing depends on the result.
        typed: What the user chose; None: ``USUAL_LENGTH``, or what the model takes if that is less.
        where: The option it was typed with.

    Raises:
        UsageError: More was typed than the model takes.
    """
    if text is None or (typed is not None and typed <= text.max_length):
        return USUAL_LENGTH if typed is None else typed
    if typed is None:
        return min(USUAL_LENGTH, text.max_length)
    raise UsageError(
        f"{typed}, but the model takes at most {text.max_length} tokens",
        where=where,
        hint=f"use at most {text.max_length}",
    )


def length_notice(text: TextSettings | None, typed: int | None) -> str | None:
    """What to say where nobody chose a length and the model takes less than the usual one."""
    if text is None or typed is not None or text.max_length >= USUAL_LENGTH:
        return None
    return f"texts are cut at {text.max_length} tokens, the most the model takes"
