"""Requests that schemathesis makes up from the server's own description: good ones, and bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.server.conftest import Served

PAGE = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"
CASES = [
    (path, method, mode)
    for path, methods in json.loads(PAGE.read_text("utf-8"))["paths"].items()
    for method, operation in methods.items()
    for mode in GenerationMode
    # Where nothing is asked for, nothing can be wrong.
    if mode is GenerationMode.POSITIVE or operation.keys() & {"parameters", "requestBody"}
]
UPGRADE_REQUIRED = 426
EXAMPLES = 20
MANY_EXAMPLES = 1000


@pytest.fixture(scope="module")
def described(shared: Served) -> Any:
    """The description as the server hands it out, and the application that it is of."""
    return schemathesis.openapi.from_asgi("/openapi.json", shared.app)


@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_whatever_is_asked_is_answered_as_it_is_described(
    described: Any, path: str, method: str, mode: GenerationMode
) -> None:
    ask(described[path][method], mode, EXAMPLES)


@pytest.mark.soak
@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_whatever_is_asked_often_is_answered_as_it_is_described(
    described: Any, path: str, method: str, mode: GenerationMode
) -> None:
    ask(described[path][method], mode, MANY_EXAMPLES)


def ask(operation: Any, mode: GenerationMode, examples: int) -> None:
    """So many requests; each answer has a status, headers and a body that the description has."""

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def answered_as_described(case: Any) -> None:
        response = case.call()
        # JSON Schema takes 1.0 for an integer; the protocol does not, and has more rules than a schema.
        excluded = [positive_data_acceptance]
        if (
            response.status_code == UPGRADE_REQUIRED
        ):  # before anything else of the message is looked at
            excluded.append(negative_data_rejection)
        case.validate_response(response, excluded_checks=excluded)

    answered_as_described()
