"""JSON that no two readers understand in two ways (RFC 8259, sections 4, 6 and 8.1)."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

__all__ = ["parse_json", "unique_members"]

_NAME_CHARACTERS = 40


def parse_json(content: bytes) -> Any:  # noqa: ANN401  (whatever it holds)
    """A document in UTF-8 in which no member is there twice and every number is one.

    Args:
        content: From anybody; the caller bounds its size.

    Raises:
        ValueError: It is something else; says what.
        RecursionError: It is nested deeper than Python's parser goes.
    """
    return json.loads(
        content.decode("utf-8"), object_pairs_hook=unique_members, parse_constant=_no_number
    )


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object from its members, for ``object_pairs_hook``.

    Raises:
        ValueError: A name is there twice.
    """
    members = dict(pairs)
    if len(members) != len(pairs):
        double = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"member {double[:_NAME_CHARACTERS]!a} is there twice")
    return members


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")
