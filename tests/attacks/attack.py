"""One abuse: a file, what it tries, and what a reader must say."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Attack"]


@dataclass(frozen=True)
class Attack:
    """One file of the collection.

    Args:
        path: Below ``tests/attacks/files``.
        tries: What it abuses, or shows where a reader must not be too strict.
        says: What the refusal must contain: the tensor, the key or the number. None: accept it.
        content: The file's bytes.
        large: Not committed; the script makes it with ``--large``, the tests in memory.
    """

    path: str
    tries: str
    says: str | None
    content: bytes
    large: bool = False
