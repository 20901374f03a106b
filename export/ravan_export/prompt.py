"""A tokenizer's chat template as three texts, so that no device needs a template language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ravan_edge.artifact.manifest import PromptFormat

__all__ = ["chat_prompt"]

_MOST = 10_000  # characters of a text, as the manifest bounds them
_MARKERS = (("Kestrel 4711 prompt", "Heron 1742 answer"), ("ash: 5, oak", "elm? yew!"))
# A day that templates name as their own default: an export has the same bytes on every day.
_DAY = "26 Jul 2024"
_CLOCK = f"{{%- macro strftime_now(format) -%}}{_DAY}{{%- endmacro -%}}"


def chat_prompt(folder: Path) -> tuple[PromptFormat | None, tuple[str, ...]]:
    """What the folder's chat template puts around a prompt and its answer.

    The template is rendered, in transformers' sandbox, with two texts that are then looked for.

    Returns:
        The texts, or None where there is no template or it changes what it is given; and notices.
    """
    if not _has_template(folder):
        return None, ()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        rendered = [_render(tokenizer, *markers) for markers in _MARKERS]
    except Exception as error:  # noqa: BLE001  whatever a template or a tokenizer raises
        return None, (f"the chat template is not used: {type(error).__name__}",)
    found = {_split(text, *markers) for text, markers in zip(rendered, _MARKERS, strict=True)}
    texts = found.pop()
    if found or texts is None:
        return None, ("the chat template is not used: it changes what it is given",)
    if max(map(len, texts)) > _MOST:
        return None, (f"the chat template is not used: it writes more than {_MOST} characters",)
    notices: tuple[str, ...] = ()
    if any(_DAY in text for text in texts):
        notices = (f"the chat template names a date: {_DAY} stands for it",)
    before, between, after = texts
    return PromptFormat(before=before, between=between, after=after), notices


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    try:
        document = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and bool(document.get("chat_template"))


def _render(tokenizer: Any, prompt: str, answer: str) -> str:  # noqa: ANN401
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    text: str = tokenizer.apply_chat_template(
        turns,
        tokenize=False,
        chat_template=_CLOCK + tokenizer.get_chat_template(),
        date_string=_DAY,
    )
    return text


def _split(text: str, prompt: str, answer: str) -> tuple[str, str, str] | None:
    """The three parts, or None unless each marker is there once, in order."""
    if text.count(prompt) != 1 or text.count(answer) != 1 or text.find(prompt) > text.find(answer):
        return None
    before, _, rest = text.partition(prompt)
    between, _, after = rest.partition(answer)
    return before, between, after
