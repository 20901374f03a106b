"""The codec as an option, as a setting that is stored, and as what a device is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ravan_edge.codecs import CodecName
from ravan_edge.codecs.top_k import TopK
from ravan_edge.errors import UsageError
from ravan_edge.protocol import UploadRules, UploadSettings
from ravan_server.settings import RoundSettings


@pytest.mark.parametrize("codec", list(CodecName))
def test_settings_come_back(codec: CodecName) -> None:
    settings = UploadSettings(codec, 0.25)
    assert UploadSettings.from_dict(json.loads(json.dumps(settings.as_dict()))) == settings
    rounds = RoundSettings(upload=settings)
    assert RoundSettings.from_json(rounds.to_json()) == rounds
    assert (settings.coder is None) == (codec is CodecName.FP32)


@pytest.mark.parametrize("share", [0.0, -1.0, 0.6, float("nan")])
def test_a_share_out_of_its_range_is_refused(share: float) -> None:
    with pytest.raises(UsageError) as caught:
        UploadSettings(CodecName.TOP_K, share)
    assert caught.value.where == "--top-k-share"


@pytest.mark.parametrize(
    "rules",
    [
        {"codec": "zip"},
        {"codec": 8},
        {"codec": None},
        {"codec": "top-k"},
        {"codec": "top-k", "top_k_share": None},
        {"codec": "top-k", "top_k_share": 0},
        {"codec": "top-k", "top_k_share": 0.51},
        {"codec": "top-k", "top_k_share": "0.1"},
        {"codec": "int8", "top_k_share": 0.1},
        {"encoding": "masked"},
    ],
)
def test_rules_that_no_server_gives_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        UploadRules.model_validate({"most_bytes": 1000, **rules})


def test_rules_name_the_codec_that_writes() -> None:
    assert UploadRules(most_bytes=1).coder is None
    rules = UploadRules.model_validate_json(
        '{"codec": "top-k", "top_k_share": 0.125, "most_bytes": 9}'
    )
    assert rules.coder == TopK(0.125)
