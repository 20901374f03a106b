"""Sequence to sequence: one text is read, another is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ravan_edge.artifact import Artifact
from ravan_edge.data import PairRows, tokenise_pairs
from ravan_edge.data.readers import read_table
from ravan_edge.data.rows import ANSWER_COLUMNS, PROMPT_COLUMNS, ColumnRequest
from ravan_edge.tasks.task import DataSource, LoadedData, OnRows
from ravan_edge.tasks.text import no_prediction, text_of

__all__ = ["SequenceToSequence"]


class SequenceToSequence:
    """See :class:`ravan_edge.tasks.task.Task`."""

    name = "seq2seq"
    row_labels = False
    counted = "tokens"
    perplexity = True

    def load(
        self, artifact: Artifact, source: DataSource, on_rows: OnRows | None = None
    ) -> LoadedData:
        """Pairs of texts of a csv, tsv, jsonl or parquet file; the label column is what is written."""
        text, tokenizer = text_of(artifact)
        assert text.end_id is not None and text.decoder_start_id is not None  # noqa: S101, PT018
        request = ColumnRequest(
            text=source.text_column,
            label=source.label_column,
            user=source.user_column,
            skip_empty=source.skip_empty,
            text_names=PROMPT_COLUMNS,
            label_names=ANSWER_COLUMNS,
        )
        rows = read_table(source.path, request)
        sources, targets = tokenise_pairs(
            rows, tokenizer, max_length=source.max_length, end_id=text.end_id, progress=on_rows
        )
        dataset = PairRows(sources, targets, text.pad_id, text.decoder_start_id, text.inputs)
        return LoadedData(dataset, rows.file_sha256, rows.columns, rows.skipped)

    def read(self, artifact: Artifact, items: Sequence[str], max_length: int) -> NoReturn:
        """There is no label to predict."""
        raise no_prediction(self.name, "writes texts")
