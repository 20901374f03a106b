"""The paths and messages for programs, as OpenAPI: ``make openapi`` writes docs/openapi.json with it.

python -m ravan_server.openapi > docs/openapi.json
"""

from __future__ import annotations

import json
import sys

from ravan_server.app import create_app

__all__ = ["openapi_text"]


def openapi_text() -> str:
    """The document, the same for every server of this version."""
    return json.dumps(create_app(None).openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(openapi_text())
