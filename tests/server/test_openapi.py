"""docs/openapi.json describes what the server does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from ravan_edge.protocol import (
    CheckIn,
    CheckInAnswer,
    ComeBack,
    DeviceFailure,
    FailureReason,
    Problem,
    Reason,
    Receipt,
    RunState,
    ServerStatus,
    TaskOffer,
    WaitReason,
)
from ravan_server.app import create_app
from ravan_server.openapi import openapi_text
from tests.server.asgi import Client
from tests.server.conftest import Served

OPERATIONS = {
    ("post", "/v1/check-in"): {"200"},
    ("put", "/v1/tasks/{task}/update"): {"200"},
    ("post", "/v1/tasks/{task}/failure"): {"204"},
    ("get", "/v1/blobs/{digest}"): {"200", "206", "304"},
    ("get", "/v1/versions"): {"200", "304"},
    ("get", "/v1/attempts"): {"200", "304"},
    ("get", "/v1/attempts/{entry}/tasks"): {"200", "304"},
    ("post", "/v1/versions/{version}/rollback"): {"200"},
    ("get", "/v1/status"): {"200"},
    ("post", "/v1/enrolment"): {"200"},
    ("get", "/v1/devices"): {"200"},
    ("post", "/v1/devices/{device}/revoke"): {"200"},
    ("get", "/v1/invitations"): {"200"},
    ("post", "/v1/invitations"): {"200"},
    ("get", "/"): {"200", "304"},
    ("get", "/dashboard/{file}"): {"200", "304"},
    ("get", "/healthz"): {"200"},
    ("get", "/readyz"): {"200"},
    ("get", "/metrics"): {"200"},
}


@pytest.fixture(scope="module")
def document(root: Path) -> Any:
    return json.loads((root / "docs" / "openapi.json").read_text("utf-8"))


def test_the_file_is_up_to_date(root: Path) -> None:
    found = (root / "docs" / "openapi.json").read_text("utf-8")
    assert found == openapi_text(), "make openapi"


def test_a_server_hands_out_the_same(shared: Served, document: Any) -> None:
    assert shared.client.get("/openapi.json").json() == document


def test_every_operation_is_in_it_with_its_answers(document: Any) -> None:
    found = {
        (method, path): set(operation["responses"]) - {"default"}
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert found == OPERATIONS


def test_no_operation_is_hidden() -> None:
    application = create_app(None)
    served = {
        (method.lower(), getattr(route, "path", ""))
        for route in application.routes
        for method in getattr(route, "methods", None) or ()
    }
    own = {("get", "/openapi.json"), ("head", "/openapi.json")}
    assert served - own == set(OPERATIONS)


def test_an_application_that_only_describes_itself_serves_nothing() -> None:
    with Client(create_app(None)) as client:
        assert client.get("/v1/status").problem.reason is Reason.BUG


def test_every_operation_says_who_may_ask_for_it(document: Any) -> None:
    schemes = set(document["components"]["securitySchemes"])
    asked = {
        path: {name for each in operation["security"] for name in each}
        for path, operations in document["paths"].items()
        for operation in operations.values()
    }
    assert set().union(*asked.values()) == schemes == {"device", "operator"}
    assert asked["/v1/check-in"] == {"device"}
    assert asked["/v1/status"] == {"operator"}
    assert asked["/healthz"] == set()


def test_every_operation_is_refused_with_a_problem(document: Any) -> None:
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    for path in document["paths"].values():
        for operation in path.values():
            refusal = operation["responses"]["default"]
            assert refusal["content"] == {"application/problem+json": problem}


@pytest.mark.parametrize("values", [Reason, WaitReason, FailureReason, RunState])
def test_every_word_of_the_protocol_is_in_it(document: Any, values: Any) -> None:
    assert document["components"]["schemas"][values.__name__]["enum"] == list(values)


@pytest.mark.parametrize(
    "message", [CheckIn, TaskOffer, ComeBack, Receipt, DeviceFailure, ServerStatus, Problem]
)
def test_every_message_is_in_it_with_all_its_fields(document: Any, message: Any) -> None:
    schema = document["components"]["schemas"][message.__name__]
    assert set(schema["properties"]) == set(message.model_fields)
    assert schema["additionalProperties"] is False


def test_the_answer_to_a_check_in_is_one_of_two(document: Any) -> None:
    answer = document["paths"]["/v1/check-in"]["post"]["responses"]["200"]
    schema = answer["content"]["application/json"]["schema"]
    expected = TypeAdapter[Any](CheckInAnswer).json_schema()["discriminator"]["mapping"]
    assert set(schema["discriminator"]["mapping"]) == set(expected) == {"task", "come_back"}


def test_the_command_writes_it(root: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "ravan_server.openapi"]
    written = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert written == (root / "docs" / "openapi.json").read_text("utf-8")
