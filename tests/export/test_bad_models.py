"""Models and images that cannot be used, as a shell sees it: the exit code, the way out, no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from ravan_edge.artifact import open_artifact
from ravan_export.export import export_artifact
from ravan_export.families import FAMILIES
from tests.cli.calls import Call, ravan
from tests.export.conftest import tiny_config
from tests.export.decoder_models import save_decoder
from tests.export.vit_models import draw_patches, save_vit
from tests.export.word_models import save_with_letters

BuildOnce = Callable[[str, Callable[[Path], None]], Path]
Capture = pytest.CaptureFixture[str]
LABELS = ("--labels", 3, "--lora-budget", 2)


@pytest.fixture(scope="module")
def models(build_once: BuildOnce) -> Path:
    """``bert``, ``roberta``, ``masked``, ``llama``, ``vit``; ``images`` and ``vit.ravan``, made from them."""

    def build(folder: Path) -> None:
        folder.mkdir()
        for kind in ("bert", "roberta"):
            model = AutoModelForSequenceClassification.from_config(tiny_config(kind))
            save_with_letters(model, folder / kind)
        save_with_letters(AutoModelForMaskedLM.from_config(tiny_config("bert")), folder / "masked")
        save_decoder("llama", folder / "llama")
        save_vit("vit", folder / "vit")
        images = draw_patches(folder / "images", 4)
        export_artifact(
            folder / "vit", "image-classification", str(images), folder / "vit.ravan", lora_budget=2
        )

    return build_once("bad-models", build)


def change(path: Path, **values: Any) -> None:
    """Change keys of a JSON file; ``...`` takes one away."""
    document = json.loads(path.read_text())
    document |= values
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not ...}))


def refused(call: Call, code: int, *said: str) -> None:
    assert call.code == code, call.err
    for text in said:
        assert text in call.err
    assert (call.out, "Traceback" in call.err) == ("", False)


def test_an_unknown_architecture_is_told_what_works_and_how_to_add_one(
    models: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = Path(shutil.copytree(models / "bert", tmp_path / "model"))
    change(folder / "config.json", model_type="gpt_neox")
    for words in (("export", folder, *LABELS, "--out", tmp_path / "out"), ("inspect", folder)):
        call = ravan(capsys, *words)
        refused(call, 3, "model type 'gpt_neox' is not known", "docs/export.md")
        assert all(kind in call.err for family in FAMILIES for kind in family.model_types)


@pytest.mark.parametrize(
    ("model", "task", "works_for"),
    [
        ("bert", "causal-lm", "llama, qwen, gemma"),
        ("bert", "image-classification", "vit, deit"),
        ("llama", "text-classification", "bert, roberta"),
        ("llama", "masked-lm", "bert, roberta"),
        ("vit", "seq2seq", "t5, mt5"),
    ],
)
def test_a_task_that_the_family_has_no_head_for(
    model: str, task: str, works_for: str, models: Path, tmp_path: Path, capsys: Capture
) -> None:
    labels = LABELS if task.endswith("classification") else ()
    words = ("export", models / model, "--task", task, *labels, "--out", tmp_path / "out")
    refused(ravan(capsys, *words), 3, f"{model} cannot be exported for {task}", works_for)


@pytest.mark.parametrize("command", ["train", "eval", "simulate"])
def test_an_image_that_is_no_image(
    command: str, models: Path, tmp_path: Path, capsys: Capture
) -> None:
    images = Path(shutil.copytree(models / "images", tmp_path / "images"))
    (images / "red" / "000.png").write_text("no image")
    option = "--train" if command == "simulate" else "--data"
    out = () if command == "eval" else ("--out", tmp_path / "out")
    call = ravan(capsys, command, models / "vit.ravan", option, images, *out)
    refused(call, 4, "red/000.png: is no image that can be read", "PNG, JPEG")
    assert not (tmp_path / "out").exists()


def test_a_photo_that_is_none_or_damaged(models: Path, tmp_path: Path, capsys: Capture) -> None:
    whole = (models / "images" / "red" / "001.png").read_bytes()
    for name, content, said in (
        ("text.png", b"no image", "is no image that can be read"),
        ("cut.png", whole[: len(whole) // 2], "the image is damaged"),
        ("empty.png", b"", "the image is empty"),
    ):
        (tmp_path / name).write_bytes(content)
        call = ravan(capsys, "predict", models / "vit.ravan", tmp_path / name)
        refused(call, 4, name, said)
    refused(
        ravan(capsys, "predict", models / "vit.ravan", tmp_path / "nowhere.png"), 4, "no such file"
    )


def test_a_tokenizer_without_a_mask_token(models: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = Path(shutil.copytree(models / "masked", tmp_path / "model"))
    change(folder / "tokenizer_config.json", mask_token=...)
    call = ravan(capsys, "export", folder, "--task", "masked-lm", "--out", tmp_path / "out")
    refused(call, 3, "the tokenizer has no mask token", "tokenizer_config.json")


def test_without_a_padding_token_the_mask_hides_another_one(
    models: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = Path(shutil.copytree(models / "bert", tmp_path / "model"))
    change(folder / "config.json", pad_token_id=None)
    change(folder / "tokenizer_config.json", pad_token=...)
    call = ravan(capsys, "export", folder, *LABELS, "--out", tmp_path / "out")
    assert call.code == 0, call.err
    (notice,) = open_artifact(tmp_path / "out").manifest.notices
    assert "names no padding token: token 0 stands for it" in notice
    assert notice in call.err


def test_positions_that_are_counted_from_a_padding_token_need_one(
    models: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = Path(shutil.copytree(models / "roberta", tmp_path / "model"))
    change(folder / "config.json", pad_token_id=None)
    call = ravan(capsys, "export", folder, *LABELS, "--out", tmp_path / "out")
    refused(call, 3, "no pad_token_id, which roberta counts its positions from", "add it")
    assert not (tmp_path / "out").exists()
