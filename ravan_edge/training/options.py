"""Settings with a help text and bounds per field: one class makes checks and command line options.

A settings class is a frozen dataclass whose fields are made by :func:`option`, so that a default, its
range and its help stand in one place; ``ravan_edge.cli.common`` turns the fields into options.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ravan_edge.errors import UsageError

if TYPE_CHECKING:

    class _Settings(Protocol):
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


__all__ = [
    "OptionInfo",
    "check_options",
    "option",
    "option_infos",
    "option_name",
    "option_values",
]

_KEY = "ravan_option"


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """What is known about a field besides its type and default.

    Attributes:
        help: One sentence for ``--help``.
        minimum: The smallest value; None: no bound.
        maximum: The largest value; None: no bound.
        above: The value must be larger than this; None: no bound.
        group: The heading it stands under in ``--help``.
    """

    help: str
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    group: str = "Training"


def option(
    default: Any,
    help: str,  # noqa: A002  (the word of every option parser)
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    group: str = "Training",
) -> Any:
    """A dataclass field that is also a command line option.

    Args:
        default: Its only default.
        help: One sentence for ``--help``.
        minimum: The smallest value.
        maximum: The largest value.
        above: The value must be larger than this.
        group: The heading it stands under in ``--help``.
    """
    return field(default=default, metadata={_KEY: OptionInfo(help, minimum, maximum, above, group)})


def option_name(field_name: str) -> str:
    """The option of a field.

    >>> option_name("local_steps")
    '--local-steps'
    """
    return "--" + field_name.replace("_", "-")


def option_infos(settings: _Settings | type[_Settings]) -> Iterator[tuple[Field[Any], OptionInfo]]:
    """The fields made by :func:`option`, in order."""
    for item in fields(settings):
        info = item.metadata.get(_KEY)
        if info is not None:
            yield item, info


def option_values(settings: _Settings) -> dict[str, Any]:
    """All fields, for JSON and for digests of a configuration: enumerations as their text."""
    values = {item.name: getattr(settings, item.name) for item in fields(settings)}
    return {
        name: str(value) if isinstance(value, StrEnum) else value for name, value in values.items()
    }


def check_options(settings: _Settings) -> None:
    """Refuse a number out of its bounds. Call it in ``__post_init__``.

    Raises:
        UsageError: ``where`` is the option.
    """
    for item, info in option_infos(settings):
        value = getattr(settings, item.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        within = (
            math.isfinite(value)
            and (info.minimum is None or value >= info.minimum)
            and (info.maximum is None or value <= info.maximum)
            and (info.above is None or value > info.above)
        )
        if not within:
            raise UsageError(
                f"{value} is out of range, expected {_range(info)}",
                where=option_name(item.name),
                hint="use a number in that range",
            )


def _range(info: OptionInfo) -> str:
    parts = []
    if info.minimum is not None:
        parts.append(f"at least {info.minimum:g}")
    if info.above is not None:
        parts.append(f"more than {info.above:g}")
    if info.maximum is not None:
        parts.append(f"at most {info.maximum:g}")
    return " and ".join(parts) or "a finite number"
