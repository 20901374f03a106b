"""Running `ravan` inside the test process, as a shell would see it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from ravan_edge.cli.main import main


@dataclass(frozen=True)
class Call:
    """What one call left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


def ravan(capsys: pytest.CaptureFixture[str], *words: object) -> Call:
    """Run one command line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return Call(code, captured.out, captured.err)
