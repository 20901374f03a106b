"""Chat templates as three texts; tokens that end or fill a text."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from ravan_export.prompt import chat_prompt
from ravan_export.tokenizer import special_token_id

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)


def folder_with(path: Path, template: str | None, **keys: Any) -> Path:
    words = {word: index for index, word in enumerate(["[UNK]", "<pad>", "</s>", "a"])}
    Tokenizer(models.WordLevel(words, unk_token="[UNK]")).save(str(path / "tokenizer.json"))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"} | keys
    if template is not None:
        config["chat_template"] = template
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def test_a_template_becomes_three_texts(tmp_path: Path) -> None:
    prompt, notices = chat_prompt(folder_with(tmp_path, CHATML))
    assert prompt is not None
    assert prompt.before == "<|im_start|>user\n"
    assert prompt.between == "<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.after == "<|im_end|>\n"
    assert notices == ()


def test_no_template_is_no_prompt(tmp_path: Path) -> None:
    assert chat_prompt(folder_with(tmp_path, None)) == (None, ())


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "changes what"),
        ("{% for m in messages %}{{ m['content'][:4] }}{% endfor %}", "changes what"),
        ("{{ messages[1]['content'] }}{{ messages[0]['content'] }}", "changes what"),
        ("{{ messages[0]['content'] }} {{ messages[0]['content'] }}", "changes what"),
        ("{% for m in messages %}{{ m['content'] | length }} {{ m['content'] }}{% endfor %}",
         "changes what"),
        ("{{ raise_exception('no') }}", "not used"),
        ("{% for m in messages %}{{ 'x' * 20000 }}{{ m['content'] }}{% endfor %}", "more than"),
        ("{{", "not used"),
    ],
)  # fmt: skip
def test_templates_that_cannot_be_split(template: str, words: str, tmp_path: Path) -> None:
    prompt, notices = chat_prompt(folder_with(tmp_path, template))
    assert prompt is None
    assert words in notices[0]


def test_a_date_is_the_same_on_every_day(tmp_path: Path) -> None:
    template = "Today: {{ strftime_now('%d %b %Y') }}\n" + CHATML
    prompt, notices = chat_prompt(folder_with(tmp_path, template))
    assert prompt is not None
    assert prompt.before.startswith("Today: 26 Jul 2024\n")
    assert "26 Jul 2024" in notices[0]


@pytest.mark.parametrize(
    ("config", "keys", "expected"),
    [
        ({"eos_token_id": 3}, {}, 3),
        ({"eos_token_id": [2, 3]}, {}, 2),
        ({"eos_token_id": None}, {"eos_token": "</s>"}, 2),
        ({"eos_token_id": None}, {"eos_token": {"content": "</s>"}}, 2),
        ({"eos_token_id": None}, {"eos_token": "<nowhere>"}, None),
        ({"eos_token_id": 99}, {}, None),
        ({"eos_token_id": -1}, {}, None),
        ({}, {}, None),
    ],
)
def test_special_tokens(
    config: dict[str, Any], keys: dict[str, Any], expected: int | None, tmp_path: Path
) -> None:
    folder = folder_with(tmp_path, None, **keys)
    checkpoint: Any = SimpleNamespace(
        folder=folder, config=SimpleNamespace(**config), stored=folder
    )
    assert special_token_id(checkpoint, "eos", 4) == expected
