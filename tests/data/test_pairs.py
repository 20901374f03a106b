"""Pairs of texts: what the decoder reads and learns, against transformers' own shift and padding."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast, T5Config
from transformers.models.t5 import T5ForConditionalGeneration

from ravan_edge.data import PairRows, split_micro_batches, tokenise_pairs
from ravan_edge.data.rows import Columns, Rows
from ravan_edge.errors import DataError, UsageError

PAD, END, UNKNOWN, START = 0, 1, 2, 0
WORDS = ("<pad>", "</s>", "<unk>", *"abcdefgh")


def save_tokenizer(path: Path, *, ends: bool) -> Path:
    """Letters as tokens; ``ends``: a text ends with </s>, as T5's do."""
    made = tokenizers.Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if ends:
        made.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", END)])
    made.save(str(path))
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json", ends=True)


def rows_of(sources: list[str], targets: list[Any], users: list[str] | None = None) -> Rows:
    return Rows(
        source="a.csv",
        # Another file for other content: it is part of the cache's key.
        file_sha256=hashlib.sha256(repr((sources, targets)).encode()).hexdigest(),
        columns=Columns("source", "target", None),
        texts=sources,
        labels=targets,
        users=users,
        numbers=list(range(2, 2 + len(sources))),
        unit="line",
    )


def dataset(
    sources: list[str], targets: list[Any], tokenizer: Path, folder: Path, length: int = 20
) -> PairRows:
    read, written = tokenise_pairs(
        rows_of(sources, targets), tokenizer, max_length=length, end_id=END, folder=folder
    )
    return PairRows(read, written, PAD, START)


text = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12).map(" ".join)


@settings(max_examples=30)
@given(pairs=st.lists(st.tuples(text, text), min_size=1, max_size=6), length=st.integers(2, 9))
def test_batches_are_those_of_transformers(
    pairs: list[tuple[str, str]],
    length: int,
    tokenizer: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    sources, targets = (list(side) for side in zip(*pairs, strict=True))
    folder = tmp_path_factory.mktemp("cache")
    found = dataset(sources, targets, tokenizer, folder, length).batch(np.arange(len(pairs)))
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer), pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    features = [
        theirs(source, text_target=target, max_length=length, truncation=True)
        for source, target in pairs
    ]
    for feature in features:
        feature.pop("token_type_ids", None)
    expected = DataCollatorForSeq2Seq(theirs, return_tensors="np")(features)
    for name in ("input_ids", "attention_mask"):
        assert np.array_equal(found.inputs[name], expected[name])
    assert np.array_equal(found.labels, expected["labels"])
    sizes: dict[str, Any] = {"d_model": 2, "d_kv": 1, "d_ff": 2, "num_layers": 1, "num_heads": 1}
    config = T5Config(vocab_size=11, decoder_start_token_id=START, **sizes)
    import torch

    shifted = T5ForConditionalGeneration(config)._shift_right(torch.from_numpy(found.labels))
    assert np.array_equal(found.inputs["decoder_input_ids"], shifted.numpy())
    assert np.array_equal(found.inputs["decoder_attention_mask"], found.labels != -100)


def test_lengths_count_both_texts(tokenizer: Path, tmp_path: Path) -> None:
    data = dataset(["a b c", "d"], ["e", "f g h a"], tokenizer, tmp_path)
    assert data.lengths.tolist() == [4 + 2, 2 + 5]
    assert len(data) == 2
    assert data.labels.tolist() == [-100, -100]
    assert data.batch(np.array([0, 1])).tokens == 13


def test_each_side_is_cut_by_itself(tokenizer: Path, tmp_path: Path) -> None:
    data = dataset(["a b c d e", "f"], ["g", "a b c d e f"], tokenizer, tmp_path, length=4)
    assert data.sources.lengths.tolist() == [4, 2]
    assert data.targets.lengths.tolist() == [2, 4]
    assert data.sources.row(0).tolist() == [3, 4, 5, END]
    assert data.targets.row(1).tolist() == [3, 4, 5, END]


def test_a_target_ends_even_where_the_tokenizer_ends_none(tmp_path: Path) -> None:
    tokenizer = save_tokenizer(tmp_path / "tokenizer.json", ends=False)
    data = dataset(["a b c d", "e"], ["b", "a b c d"], tokenizer, tmp_path, length=3)
    assert data.sources.row(0).tolist() == [3, 4, 5]
    assert data.targets.row(0).tolist() == [4, END]
    assert data.targets.row(1).tolist() == [3, 4, END]


def test_a_number_may_be_a_target(tokenizer: Path, tmp_path: Path) -> None:
    assert dataset(["a"], [7], tokenizer, tmp_path).targets.row(0).tolist() == [UNKNOWN, END]


def test_micro_batches_cut_either_side_to_its_own_longest(tokenizer: Path, tmp_path: Path) -> None:
    data = dataset(["a", "a b c d e", "a b"], ["a b c", "a", "a b c d"], tokenizer, tmp_path)
    pieces = list(split_micro_batches(data.batch(np.arange(3)), 1))
    assert [
        (piece.inputs["input_ids"].shape, piece.inputs["decoder_input_ids"].shape)
        for piece in pieces
    ] == [((1, 6), (1, 2)), ((1, 3), (1, 5)), ((1, 2), (1, 4))]
    assert all(piece.labels.shape == piece.inputs["decoder_input_ids"].shape for piece in pieces)
    assert all((piece.labels != -100).all() for piece in pieces)


def test_only_the_graphs_inputs_are_made(tokenizer: Path, tmp_path: Path) -> None:
    data = dataset(["a"], ["b"], tokenizer, tmp_path)
    some = PairRows(data.sources, data.targets, PAD, START, ("input_ids", "decoder_input_ids"))
    assert list(some.batch(np.array([0])).inputs) == ["input_ids", "decoder_input_ids"]
    with pytest.raises(ValueError, match="pixel_values"):
        PairRows(data.sources, data.targets, PAD, START, ("pixel_values",)).batch(np.array([0]))


def test_both_sides_come_from_the_cache_and_map_the_same_pages(
    tokenizer: Path, tmp_path: Path
) -> None:
    first = dataset(["a b", "c"], ["d", "e f"], tokenizer, tmp_path)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 2
    changed = [path.stat().st_mtime_ns for path in files]
    second = dataset(["a b", "c"], ["d", "e f"], tokenizer, tmp_path)
    assert [path.stat().st_mtime_ns for path in files] == changed
    assert (second.sources.path, second.targets.path) == (first.sources.path, first.targets.path)
    copy = pickle.loads(pickle.dumps(second))
    assert len(pickle.dumps(second)) < 1000
    assert np.array_equal(copy.batch(np.array([1])).labels, first.batch(np.array([1])).labels)
    users = tokenise_pairs(
        rows_of(["a b", "c"], ["d", "e f"], ["u", "v"]),
        tokenizer,
        max_length=20,
        end_id=END,
        folder=tmp_path / "users",
    )
    assert PairRows(*users, PAD, START).users.tolist() == [0, 1]  # type: ignore[union-attr]


def test_progress_counts_rows_once(tokenizer: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    tokenise_pairs(
        rows_of(["a", "b", "c", "d"], ["a", "b", "c", "d"]),
        tokenizer,
        max_length=9,
        end_id=END,
        folder=tmp_path,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (4, 4)


def test_what_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--max-length is 1"):
        dataset(["a"], ["b"], tokenizer, tmp_path, length=1)
    with pytest.raises(DataError, match="a target without any token") as caught:
        dataset(["a", "b"], ["c", " "], tokenizer, tmp_path)
    assert caught.value.where == "a.csv, line 3"
