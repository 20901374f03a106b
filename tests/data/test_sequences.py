"""Masked tokens: the page's algorithm, shares, and what a draw depends on."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ravan_edge.data import NO_LABEL, Draw, MaskedRows, NextTokenRows, TokenisedDataset
from ravan_edge.generator import Purpose, Stream

PAD, CLS, SEP, MASK = 0, 1, 2, 3
SPECIAL = (PAD, CLS, SEP, MASK)
WORDS = 1000
INPUTS = ("input_ids", "attention_mask")
DRAW = Draw(seed=7, round=2, device=5, step=3)


def dataset(lengths: list[int], seed: int = 0) -> TokenisedDataset:
    """Random tokens between [CLS] and [SEP]."""
    rng = np.random.default_rng(seed)
    rows = [[CLS, *rng.integers(4, WORDS, length - 2).tolist(), SEP] for length in lengths]
    offsets = np.cumsum([0, *map(len, rows)])
    ids = np.array([token for row in rows for token in row], np.int32)
    none = np.full(len(rows), NO_LABEL, np.int32)
    return TokenisedDataset(ids, offsets, none, None, max(lengths))


def masked_rows(lengths: list[int], special: tuple[int, ...] = SPECIAL) -> MaskedRows:
    return MaskedRows(
        dataset(lengths), PAD, INPUTS, mask_id=MASK, vocabulary=WORDS, special_ids=special
    )


def stream_of(draw: Draw | None, row: int) -> Stream:
    if draw is None:
        return Stream(0, Purpose.MASKING, index=row)
    return Stream(draw.seed, Purpose.MASKING, round=draw.round, device=draw.device, index=draw.step)


def by_the_page(
    rows: list[list[int]], indices: list[int], draw: Draw | None
) -> list[tuple[list[int], list[int]]]:
    """The slow twin: docs/generator.md, "Masked tokens", word for word."""
    found = []
    before = 0
    for index, ids in zip(indices, rows, strict=True):
        words = stream_of(draw, index).words(3 * (before + len(ids))).tolist()
        w = [words[3 * (before + place) :][:3] for place in range(len(ids))]
        if draw is not None:
            before += len(ids)
        able = [place for place, token in enumerate(ids) if token not in SPECIAL]
        chosen = [place for place in able if w[place][0] < 644245094]
        if able and not chosen:
            chosen = [min(able, key=lambda place: (w[place][0], place))]
        inputs, labels = list(ids), [NO_LABEL] * len(ids)
        for place in chosen:
            labels[place] = ids[place]
            if w[place][1] < 3435973836:
                inputs[place] = MASK
            elif w[place][1] < 3865470566:
                inputs[place] = w[place][2] * WORDS // 2**32
        found.append((inputs, labels))
    return found


@pytest.mark.parametrize("draw", [None, DRAW, Draw(2**63, 1, 0, 0)], ids=["scoring", "a", "b"])
def test_is_what_the_page_says(draw: Draw | None) -> None:
    rows = masked_rows([3, 40, 2, 9, 3, 17, 120])
    indices = [4, 1, 6, 2, 3, 0]
    batch = rows.batch(np.array(indices), draw)
    expected = by_the_page([rows.tokens.row(index).tolist() for index in indices], indices, draw)
    for place, (inputs, labels) in enumerate(expected):
        assert batch.inputs["input_ids"][place, : len(inputs)].tolist() == inputs
        assert batch.labels[place, : len(labels)].tolist() == labels


def test_shares() -> None:
    """15 % chosen; of these 80 % masked, 10 % any token, 10 % as they were."""
    rows = masked_rows([1002] * 100)
    plain = rows.tokens.ids.reshape(100, 1002)
    batch = rows.batch(np.arange(100), DRAW)
    ids = batch.inputs["input_ids"]
    chosen = batch.labels != NO_LABEL
    assert chosen.sum() == pytest.approx(15_000, abs=4 * (100_000 * 0.15 * 0.85) ** 0.5)
    of = chosen.sum()
    masked = chosen & (ids == MASK)
    kept = chosen & (ids == plain)
    other = chosen & ~masked & ~kept
    for found, share in ((masked, 0.8), (other, 0.1), (kept, 0.1)):
        assert found.sum() == pytest.approx(share * of, abs=5 * (of * share * (1 - share)) ** 0.5)
    # Any token of the vocabulary may stand there, evenly.
    drawn = ids[other]
    assert drawn.min() >= 0
    assert drawn.max() < WORDS
    assert drawn.mean() == pytest.approx(WORDS / 2, abs=5 * WORDS / (12 * len(drawn)) ** 0.5)
    assert (ids[~chosen] == plain[~chosen]).all()


def test_labels_and_padding() -> None:
    rows = masked_rows([3, 50, 20])
    for draw in (None, DRAW):
        batch = rows.batch(np.arange(3), draw)
        present = batch.inputs["attention_mask"] == 1
        assert present.sum(axis=1).tolist() == [3, 50, 20]
        assert (batch.inputs["input_ids"][~present] == PAD).all()
        assert (batch.labels[~present] == NO_LABEL).all()
        plain = NextTokenRows(rows.tokens, PAD, INPUTS).batch(np.arange(3)).labels
        counted = batch.labels != NO_LABEL
        assert (batch.labels[counted] == plain[counted]).all()
        assert batch.labels.dtype == batch.inputs["input_ids"].dtype == np.int64


def test_special_tokens_are_never_chosen_and_every_text_has_a_chosen_one() -> None:
    rows = masked_rows([3] * 400)
    for step in range(3):
        batch = rows.batch(np.arange(400), Draw(1, 0, 0, step))
        counted = batch.labels != NO_LABEL
        assert (counted.sum(axis=1) == 1).all()
        assert not counted[:, [0, 2]].any()
        assert (batch.inputs["input_ids"][:, [0, 2]] == [CLS, SEP]).all()
    # A text of special tokens alone has nothing to learn, and that is no error.
    batch = masked_rows([2, 3]).batch(np.arange(2), DRAW)
    assert (batch.labels != NO_LABEL).sum(axis=1).tolist() == [0, 1]


def test_a_row_is_always_scored_alike() -> None:
    rows = masked_rows([9, 30, 12, 25])
    one = rows.batch(np.array([2]))
    for indices in ([0, 1, 2, 3], [2, 0], [3, 2]):
        batch = rows.batch(np.array(indices))
        place = indices.index(2)
        assert batch.inputs["input_ids"][place, :12].tolist() == one.inputs["input_ids"][0].tolist()
        assert batch.labels[place, :12].tolist() == one.labels[0].tolist()


def test_what_a_training_draw_depends_on() -> None:
    rows = masked_rows([200, 150])
    indices = np.arange(2)

    def labels(draw: Draw | None) -> bytes:
        return rows.batch(indices, draw).labels.tobytes()

    assert labels(DRAW) == labels(DRAW)
    others = [DRAW._replace(**{name: 8}) for name in ("seed", "round", "device", "step")]
    assert len({labels(draw) for draw in (None, DRAW, *others)}) == 6


def test_the_vectors_of_the_page(root: Path) -> None:
    text = (root / "docs" / "generator.md").read_text("utf-8")
    section = text.split("## Masked tokens")[1]
    cells = {
        name: [int(number) for number in numbers.split()]
        for name, numbers in re.findall(r"^\| ([a-z0 ,]+) \| ([-\d ]+) \|$", section, re.MULTILINE)
    }
    ids = np.array(cells["tokens"], np.int32)
    none = np.array([NO_LABEL], np.int32)
    one = TokenisedDataset(ids, np.array([0, len(ids)]), none, None, len(ids))
    rows = MaskedRows(one, PAD, INPUTS, mask_id=MASK, vocabulary=WORDS, special_ids=SPECIAL)
    for before, draw in (("", Draw(7, 2, 5, 29)), ("scored as row 0, ", None)):
        batch = rows.batch(np.array([0]), draw)
        assert batch.inputs["input_ids"][0].tolist() == cells[f"{before}inputs"]
        assert batch.labels[0].tolist() == cells[f"{before}labels"]
    inputs, labels = np.array(cells["inputs"]), np.array(cells["labels"])
    counted = labels != NO_LABEL
    kinds = [inputs == MASK, inputs == labels, (inputs != MASK) & (inputs != labels)]
    assert all((counted & kind).any() for kind in kinds), "the vector shows all three"
