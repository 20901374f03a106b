"""Token classification: one label for each word of a text."""

from __future__ import annotations

from collections.abc import Sequence

from ravan_edge.artifact import Artifact
from ravan_edge.data import TextRows
from ravan_edge.data.readers import read_word_rows
from ravan_edge.data.words import WordTexts, tokenise_word_texts, tokenise_words
from ravan_edge.tasks.task import DataSource, LoadedData, OnRows
from ravan_edge.tasks.text import text_of

__all__ = ["TokenClassification"]


class TokenClassification:
    """See :class:`ravan_edge.tasks.task.Task`."""

    name = "token-classification"
    row_labels = False
    counted = "words"
    perplexity = False

    def load(
        self, artifact: Artifact, source: DataSource, on_rows: OnRows | None = None
    ) -> LoadedData:
        """Words and their labels of a csv, tsv, jsonl or parquet file."""
        text, tokenizer = text_of(artifact)
        rows = read_word_rows(
            source.path,
            text_column=source.text_column,
            label_column=source.label_column,
            user_column=source.user_column,
            skip_empty=source.skip_empty,
        )
        tokens = tokenise_words(
            rows,
            tokenizer,
            max_length=source.max_length,
            label_names=artifact.manifest.labels,
            progress=on_rows,
        )
        dataset = TextRows(tokens, text.pad_id, text.inputs)
        return LoadedData(dataset, rows.file_sha256, rows.columns, rows.skipped)

    def read(self, artifact: Artifact, items: Sequence[str], max_length: int) -> WordTexts:
        """Texts, cut into words at white space, as rows without labels."""
        text, tokenizer = text_of(artifact)
        return tokenise_word_texts(
            items, tokenizer, max_length=max_length, pad_id=text.pad_id, inputs=text.inputs
        )
