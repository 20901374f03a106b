"""How long a text may be: what was typed, the usual length, or the limit of model and plan."""

from __future__ import annotations

from ravan_edge.artifact.manifest import Manifest, TextSettings
from ravan_edge.errors import UsageError

__all__ = ["LENGTH_HELP", "USUAL_LENGTH", "fixed_length", "length_notice", "text_length"]


USUAL_LENGTH = 128
"""The most tokens of a row where nobody says how many."""

LENGTH_HELP = (
    f"Most tokens of a text; longer ones are cut. Default: {USUAL_LENGTH}, or what the model takes "
    "where that is less."
)


def fixed_length(manifest: Manifest, plan: str) -> int | None:
    """The most tokens that a plan takes whose sizes are fixed; None: as many as the model."""
    found = manifest.plans.get(plan)
    return None if found is None else found.limits.get("length")


def _limit(text: TextSettings, fixed: int | None) -> tuple[int, str]:
    """The most tokens of a row, and who says so."""
    if fixed is not None and fixed < text.max_length:
        return fixed, "this plan of the artifact"
    return text.max_length, "the model"


def text_length(
    text: TextSettings | None,
    typed: int | None,
    fixed: int | None = None,
    *,
    where: str = "--max-length",
) -> int:
    """The most tokens of a row.

    Args:
        text: The manifest's; None: the model reads no texts, and nothing depends on the result.
        typed: What the user chose; None: ``USUAL_LENGTH``, or the limit if that is less.
        fixed: :func:`fixed_length` of the plan that computes.
        where: The option it was typed with.

    Raises:
        UsageError: More was typed than the model or the plan takes.
    """
    if text is None:
        return USUAL_LENGTH if typed is None else typed
    most, who = _limit(text, fixed)
    if typed is None:
        return min(USUAL_LENGTH, most)
    if typed <= most:
        return typed
    raise UsageError(
        f"{typed}, but {who} takes at most {most} tokens", where=where, hint=f"use at most {most}"
    )


def length_notice(
    text: TextSettings | None, typed: int | None, fixed: int | None = None
) -> str | None:
    """What to say where nobody chose a length and the limit is less than the usual one."""
    if text is None or typed is not None:
        return None
    most, who = _limit(text, fixed)
    return None if most >= USUAL_LENGTH else f"texts are cut at {most} tokens, the most {who} takes"
