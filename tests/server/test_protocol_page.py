"""docs/protocol.md says what the code does: every path, field, bound, reason and value, and no other."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from ravan_edge import protocol
from ravan_edge.protocol import KINDS, CheckInAnswer, Problem, Reason, Receipt, VersionInfo
from ravan_edge.training import LocalSettings
from ravan_edge.training.options import option_infos
from ravan_server.app import create_app
from ravan_server.store import TaskState

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text("utf-8")


def public(kind: type[Any]) -> list[Any]:
    found = [getattr(protocol, name) for name in protocol.__all__]
    return [each for each in found if isinstance(each, type) and issubclass(each, kind)]


MESSAGES = public(BaseModel)
VALUES = public(StrEnum)


def section(name: str) -> str:
    """From a heading to the next one."""
    found = re.search(rf"^### `{name}`\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no section {name}"
    return found.group(1)


def rows(text: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell, which is in backquotes."""
    found = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            found[cells[0].strip("`")] = cells[1:]
    return found


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_field_of_a_message_is_there_and_no_other(kind: type[BaseModel]) -> None:
    table = rows(section(kind.__name__))
    assert list(table) == list(kind.model_fields)
    if "| field | type | default |" in section(kind.__name__):
        for name, field in kind.model_fields.items():
            assert (table[name][1] == "") is field.is_required(), name


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_bound_is_there(kind: type[BaseModel]) -> None:
    """Bounds of the named types stand where these are explained."""
    schema = kind.model_json_schema()
    patterns: set[str | None] = set()
    for name, field in schema.get("properties", {}).items():
        row = " ".join(rows(section(kind.__name__))[name])
        for bounds in [field, *field.get("anyOf", [])]:
            for key in ("maxLength", "maxItems", "minItems"):
                if key in bounds:
                    assert str(bounds[key]) in row, f"{name}: {key} {bounds[key]}"
            if bounds.get("type") == "integer" and "maximum" in bounds:
                assert f"{bounds['minimum']} .. {bounds['maximum']}" in row, name
            patterns |= {bounds.get("pattern"), bounds.get("items", {}).get("pattern")}
            for value in [bounds.get("const"), *bounds.get("enum", [])]:
                assert value is None or f'"{value}"' in row, f"{name}: {value}"
    for pattern in patterns - {None}:
        assert f"`{pattern}`" in PAGE


def test_the_named_numbers_are_those_of_the_code() -> None:
    bounds = protocol.ServerStatus.model_json_schema()["properties"]
    assert (bounds["version"]["minimum"], bounds["version"]["exclusiveMaximum"]) == (0, 1 << 53)
    assert (bounds["goal"]["minimum"], bounds["goal"]["exclusiveMaximum"]) == (1, 1 << 53)
    seconds = bounds["deadline_seconds"]["anyOf"][0]
    assert (seconds["minimum"], seconds["maximum"]) == (0, 1e9)
    for line in (
        "| count | integer | 0 .. 2^53 - 1 |",
        "| positive | integer | 1 .. 2^53 - 1 |",
        "| seconds | number | 0 .. 10^9 |",
    ):
        assert line in PAGE


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_every_value_is_there_and_no_other(kind: type[StrEnum]) -> None:
    assert list(rows(section(kind.__name__))) == [str(value) for value in kind]


def test_every_reason_has_its_status_and_whether_it_is_permanent() -> None:
    table = rows(section("Reason"))
    for reason, kind in KINDS.items():
        status, permanent, when, then = table[str(reason)]
        assert (int(status), permanent == "yes") == (kind.status, kind.permanent), reason
        assert when
        assert then
    assert set(KINDS) == set(Reason)


def test_settings_of_a_local_round_have_their_bounds() -> None:
    table = rows(section("LocalSettings"))
    infos = {item.name: info for item, info in option_infos(LocalSettings)}
    assert list(table) == list(infos) == list(LocalSettings().as_dict())
    for name, info in infos.items():
        text = table[name][1]
        if info.minimum is not None:
            assert text.startswith(f"{info.minimum:g} .. "), name
        if info.above is not None:
            assert f"above {info.above:g}" in text, name
        if info.maximum is not None:
            assert re.search(rf"(?<![\d.]){re.escape(_plain(info.maximum))}(?![\d.])", text), name
    assert {"`adam`, `sgd`", "`random`, `weight`, `gradient`"} <= {row[1] for row in table.values()}


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def test_every_path_is_there_and_no_other() -> None:
    documented = create_app(None).openapi()["paths"]
    ours = {f"{method.upper()} {path}" for path, each in documented.items() for method in each}
    assert set(rows(PAGE.split("## 3.")[0])) == {*ours, "GET /openapi.json"}


def test_every_state_of_a_task_is_in_the_picture() -> None:
    text = PAGE.split("## 5.")[1].split("A device has")[0]
    for state in TaskState:
        assert str(state) in text


ANSWER: TypeAdapter[Any] = TypeAdapter(CheckInAnswer)
KIND_OF_LINE = {
    '{"answer"': ANSWER.validate_json,
    '{"task"': Receipt.model_validate_json,
    '{"version"': VersionInfo.model_validate_json,
    '{"type"': Problem.model_validate_json,
}


def test_the_examples_are_messages() -> None:
    lines = [line.strip() for line in PAGE.splitlines() if line.startswith('    {"')]
    assert len(lines) > 10
    for line in lines:
        start = line.partition(":")[0]
        if start in KIND_OF_LINE:
            KIND_OF_LINE[start](line)
        else:
            assert json.loads(line).keys() == {"sha256", "size"}
