"""Next-token training from the command line: plain text, prompts with answers, natural users."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.cli.calls import ravan
from tests.export.decoder_models import WORDS, save_decoder

VERBS = {"anna": "sees", "otto": "hears", "emil": "meets"}
THINGS = ["oslo", "rome", "lima"]
MODEL_WORDS = [*VERBS, *VERBS.values(), *THINGS, ".", "who", "?"]


@pytest.fixture(scope="module")
def artifact(
    build_once: Callable[[str, Callable[[Path], None]], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    from ravan_export.export import export_artifact

    def build(path: Path) -> None:
        folder = tmp_path_factory.mktemp("model")
        save_decoder("llama", folder)
        words = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *MODEL_WORDS])}
        assert len(words) <= WORDS
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.save(str(folder / "tokenizer.json"))
        export_artifact(
            folder, "causal-lm", None, path, lora_budget=8,
            targets="q_proj,v_proj,o_proj,up_proj,down_proj",
        )  # fmt: skip

    return build_once("words-causal", build)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVAN_CACHE_DIR", str(tmp_path / "cache"))


def sentence(rng: random.Random) -> str:
    name = rng.choice(sorted(VERBS))
    return f"{name} {VERBS[name]} {rng.choice(THINGS)} ."


def write_texts(path: Path, rows: int, seed: int) -> Path:
    rng = random.Random(seed)
    texts = [" ".join(sentence(rng) for _ in range(rng.randint(1, 3))) for _ in range(rows)]
    if path.suffix == ".txt":
        path.write_text("\n\n".join(texts))
    else:
        lines = (json.dumps({"text": text, "user": f"u{i % 3}"}) for i, text in enumerate(texts))
        path.write_text("\n".join(lines))
    return path


def write_answers(path: Path, rows: int, seed: int) -> Path:
    rng = random.Random(seed)
    lines = []
    for _ in range(rows):
        name = rng.choice(sorted(VERBS))
        answer = VERBS[name]
        lines.append(json.dumps({"prompt": f"who {name} ?", "answer": f"{answer} ."}))
    path.write_text("\n".join(lines))
    return path


def test_plain_text_is_learned(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write_texts(tmp_path / "a.txt", 120, 1)
    test = write_texts(tmp_path / "b.jsonl", 40, 2)
    heads = tmp_path / "heads.safetensors"
    before = ravan(capsys, "eval", artifact, "--data", test, "--json").document
    trained = ravan(
        capsys, "train", artifact, "--data", train, "--out", heads, "--local-steps", 80,
        "--lr", 0.02, "--json",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    words = ("eval", artifact, "--heads", heads, "--data", test)
    after = ravan(capsys, *words, "--json").document
    assert after["perplexity"] < 0.5 * before["perplexity"]
    assert after["perplexity"] == pytest.approx(math.exp(after["loss"]))
    assert after["accuracy"] > before["accuracy"]
    assert f"({after['count']:,} tokens)" in ravan(capsys, *words).out


def test_every_token_counts_once_however_texts_are_cut(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = write_texts(tmp_path / "b.jsonl", 30, 2)
    counts = {
        ravan(capsys, "eval", artifact, "--data", test, "--max-length", length, "--json").document[
            "count"
        ]
        for length in (2, 3, 7, 60)
    }
    assert len(counts) == 1


def test_only_answers_are_learned(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write_answers(tmp_path / "a.jsonl", 90, 1)
    test = write_answers(tmp_path / "b.jsonl", 30, 2)
    heads = tmp_path / "heads.safetensors"
    trained = ravan(
        capsys, "train", artifact, "--data", train, "--out", heads, "--local-steps", 80,
        "--lr", 0.02, "--json",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    after = ravan(capsys, "eval", artifact, "--heads", heads, "--data", test, "--json").document
    assert after["count"] == 30 * 3, "two words and the end of each answer"
    assert after["accuracy"] > 0.9, "the answer follows from the prompt"


def test_natural_users_as_devices_with_any_number_of_workers(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = write_texts(tmp_path / "a.jsonl", 90, 1), write_texts(tmp_path / "b.txt", 30, 2)
    heads = []
    for workers in (1, 2):
        out = tmp_path / f"run{workers}"
        done = ravan(
            capsys, "simulate", artifact, "--train", train, "--test", test, "--out", out,
            "--partition", "column:user", "--per-round", 2, "--rounds", 3, "--local-steps", 10,
            "--lr", 0.02, "--max-length", 16, "--micro-batch", 4, "--workers", workers, "--json",
        )  # fmt: skip
        assert done.code == 0, done.err
        summary = done.document
        assert summary["devices"]["count"] == 3
        assert summary["final"]["perplexity"] < summary["initial"]["perplexity"]
        assert summary["final"]["perplexity"] == pytest.approx(math.exp(summary["final"]["loss"]))
        assert summary["per_class"] == []
        assert (out / "report.html").stat().st_size > 10_000
        heads.append((out / "heads" / "last.safetensors").read_bytes())
        told = ravan(
            capsys, "simulate", artifact, "--train", train, "--test", test, "--out", out,
            "--partition", "column:user", "--per-round", 2, "--rounds", 3, "--local-steps", 10,
            "--lr", 0.02, "--max-length", 16, "--micro-batch", 4,
        ).out  # fmt: skip
        assert "perplexity" in told
        assert "ravan merge" in told, "there is nothing to predict"
    assert heads[0] == heads[1]


def test_refusals(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = write_texts(tmp_path / "a.txt", 5, 1)
    out = ("--out", tmp_path / "run", "--max-length", 16)
    dealt = ravan(
        capsys, "simulate", artifact, "--train", texts, "--test", texts, *out,
        "--partition", "dirichlet:0.3",
    )  # fmt: skip
    assert (dealt.code, "rows of task 'causal-lm' have none" in dealt.err) == (2, True)
    users = ravan(
        capsys, "simulate", artifact, "--train", texts, "--test", texts, *out,
        "--partition", "column:user",
    )  # fmt: skip
    assert (users.code, "no column 'user'" in users.err) == (4, True)
    named = ravan(capsys, "predict", artifact, "who ?")
    assert (named.code, "gives no label to a text" in named.err) == (2, True)
    short = ravan(capsys, "eval", artifact, "--data", texts, "--max-length", 1)
    assert (short.code, "--max-length is 1" in short.err) == (2, True)
    cut = ravan(
        capsys, "eval", artifact, "--data", write_answers(tmp_path / "c.jsonl", 3, 1),
        "--max-length", 3,
    )  # fmt: skip
    assert (cut.code, "no answer is left within 3 tokens" in cut.err) == (4, True)
