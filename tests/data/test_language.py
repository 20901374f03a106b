"""Blocks of plain text, and prompts with answers, against the tokenizer itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors

from ravan_edge.artifact.manifest import PromptFormat
from ravan_edge.data import NextTokenRows
from ravan_edge.data.language import tokenise_answers, tokenise_language
from ravan_edge.data.rows import Columns, Rows
from ravan_edge.errors import DataError, UsageError

END, BEGIN = 0, 1
CHAT = PromptFormat(before="<s>user\n", between="<e>\nassistant\n", after="<e>\n")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bytes as tokens, with a beginning token of its own, as LLaMA's tokenizer has."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<e>": END, "<s>": BEGIN} | {
        sign: number for number, sign in enumerate(alphabet, start=2)
    }
    made = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    made.add_special_tokens(["<e>", "<s>"])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", BEGIN)])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


def rows_of(
    texts: list[str], answers: list[str] | None = None, users: list[str] | None = None
) -> Rows:
    return Rows(
        source="a.jsonl",
        # Another file for other content: it is part of the cache's key.
        file_sha256=hashlib.sha256(repr((texts, answers)).encode()).hexdigest(),
        columns=Columns("text", None if answers is None else "answer", None),
        texts=texts,
        labels=None if answers is None else list(answers),
        users=users,
        numbers=list(range(1, 1 + len(texts))),
        unit="line",
    )


texts = st.lists(
    st.text(st.characters(codec="ascii"), min_size=1, max_size=40), min_size=1, max_size=5
)


@settings(max_examples=40)
@given(texts=texts, length=st.integers(2, 20))
def test_every_token_is_predicted_exactly_once(
    tokenizer: Path, tmp_path_factory: pytest.TempPathFactory, texts: list[str], length: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    users = [f"u{number}" for number in range(len(texts))]
    data = tokenise_language(
        rows_of(texts, users=users), tokenizer, max_length=length, end_id=END, folder=folder
    )
    hub = tokenizers.Tokenizer.from_file(str(tokenizer))
    found: dict[int, list[int]] = {}
    assert data.users is not None
    for row, user in enumerate(data.users.tolist()):
        block = data.row(row).tolist()
        assert 2 <= len(block) <= length
        before = found.setdefault(user, [])
        if before:
            assert before[-1] == block[0], "a block begins with the last token before it"
        found[user] = before + (block[1:] if before else block)
    for user, text in enumerate(texts):
        assert found[user] == [*hub.encode(text).ids, END]


def test_labels_are_the_tokens_themselves_and_padding_counts_nothing(
    tokenizer: Path, tmp_path: Path
) -> None:
    data = tokenise_language(
        rows_of(["abc", "a"]), tokenizer, max_length=16, end_id=END, folder=tmp_path
    )
    batch = NextTokenRows(data, pad_id=END).batch(np.array([0, 1]))
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    assert mask.sum(axis=1).tolist() == [5, 3]
    assert (batch.labels == np.where(mask == 1, ids, -100)).all()
    assert batch.labels[1, 2] == END, "the end is learned, though padding has the same id"


@settings(max_examples=40)
@given(
    prompt=st.text(
        st.characters(codec="ascii", categories=["L", "N", "Zs"]), min_size=1, max_size=20
    ),
    answer=st.text(
        st.characters(codec="ascii", categories=["L", "N", "Zs"]), min_size=1, max_size=20
    ),
    template=st.booleans(),
)
def test_only_the_answer_is_learned(
    tokenizer: Path,
    tmp_path_factory: pytest.TempPathFactory,
    prompt: str,
    answer: str,
    template: bool,
) -> None:
    words = CHAT if template else None
    data = tokenise_answers(
        rows_of([prompt], [answer]), tokenizer, max_length=400, end_id=END, template=words,
        folder=tmp_path_factory.mktemp("cache"),
    )  # fmt: skip
    hub = tokenizers.Tokenizer.from_file(str(tokenizer))
    ids = data.row(0)
    labels = NextTokenRows(data, pad_id=END).batch(np.array([0])).labels[0]
    learned = labels != -100
    assert (labels[learned] == ids[learned]).all()
    assert (ids == BEGIN).sum() == 1, "the template's or the tokenizer's, not both"
    everything = hub.decode(ids.tolist(), skip_special_tokens=False)
    kept = hub.decode(ids[learned].tolist(), skip_special_tokens=False)
    if template:
        assert everything == f"<s>user\n{prompt}<e>\nassistant\n{answer}<e>\n"
        assert kept == f"{answer}<e>\n"
    else:
        assert everything == f"<s>{prompt}\n{answer}<e>"
        assert kept == f"{answer}<e>"


def test_rows_whose_answer_is_cut_off_are_left_out(tokenizer: Path, tmp_path: Path) -> None:
    rows = rows_of(["a" * 50, "b"], ["yes", "no"])
    data = tokenise_answers(
        rows, tokenizer, max_length=20, end_id=END, template=None, folder=tmp_path
    )
    assert len(data) == 1
    assert (data.row(0) != END).sum() == len("<b\nno")
    with pytest.raises(DataError, match="no answer is left within 20 tokens"):
        tokenise_answers(
            rows_of(["a" * 50], ["yes"]), tokenizer, max_length=20, end_id=END,
            template=None, folder=tmp_path,
        )  # fmt: skip


def test_the_cache_knows_what_it_depends_on(tokenizer: Path, tmp_path: Path) -> None:
    rows = rows_of(["a b c"], ["d"])
    made = [
        tokenise_language(rows, tokenizer, max_length=4, end_id=END, folder=tmp_path),
        tokenise_language(rows, tokenizer, max_length=5, end_id=END, folder=tmp_path),
        tokenise_answers(
            rows, tokenizer, max_length=40, end_id=END, template=None, folder=tmp_path
        ),
        tokenise_answers(
            rows, tokenizer, max_length=40, end_id=END, template=CHAT, folder=tmp_path
        ),
    ]
    assert len({data.path for data in made}) == 4
    again = tokenise_language(rows, tokenizer, max_length=4, end_id=END, folder=tmp_path)
    assert again.path == made[0].path
    assert again.ids.tolist() == made[0].ids.tolist()


def test_a_length_that_leaves_nothing_to_predict(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--max-length is 1"):
        tokenise_language(rows_of(["a"]), tokenizer, max_length=1, end_id=END, folder=tmp_path)
