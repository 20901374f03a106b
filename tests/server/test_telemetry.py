"""Whatever the environment asks FastAPI to send, the server sends nothing about its devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WISHES = {
    "FASTAPI_OTEL_AUTO_CONFIGURE": "true",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
}

# What FastAPI does by itself is tried beside it: else a change of its insides would go unseen.
PROGRAM = """
import asyncio, sys
from opentelemetry import trace

traced, exporters = [], []

class Provider(trace.TracerProvider):
    def get_tracer(self, *arguments, **named):
        traced.append(arguments)
        return trace.NoOpTracer()

trace.set_tracer_provider(Provider())

from fastapi import FastAPI
from fastapi.telemetry import _runtime
from ravan_server.app import create_app
from tests.server.asgi import Client

_runtime._export_endpoint = exporters.append  # is asked for each signal that is to be sent
app = FastAPI() if sys.argv[1] == "plain" else create_app(None)

async def start():
    starting = asyncio.Queue()
    starting.put_nowait({"type": "lifespan.startup"})
    starting.put_nowait({"type": "lifespan.shutdown"})
    async def send(message):
        pass
    await app({"type": "lifespan", "asgi": {}, "state": {}}, starting.get, send)

with Client(app) as client:
    client.run(start())
    for path in ("/healthz", "/v1/status", "/nothing"):
        client.get(path)
print(len(traced), len(exporters))
"""


@pytest.mark.parametrize("kind", ["plain", "ours"])
def test_no_environment_makes_the_server_send_telemetry(root: Path, kind: str) -> None:
    traced, exporters = map(
        int,
        subprocess.run(
            [sys.executable, "-c", PROGRAM, kind],
            cwd=root,
            env={**os.environ, **WISHES},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split(),
    )
    assert (traced > 0, exporters > 0) == (kind == "plain", kind == "plain")
