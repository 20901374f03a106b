"""Masked language modelling: guess the tokens that are hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ravan_edge.artifact import Artifact
from ravan_edge.data import MaskedRows, tokenise
from ravan_edge.data.readers import read_table
from ravan_edge.data.rows import ColumnRequest
from ravan_edge.tasks.task import DataSource, LoadedData, OnRows
from ravan_edge.tasks.text import no_prediction, text_of

__all__ = ["MaskedLanguage"]


class MaskedLanguage:
    """See :class:`ravan_edge.tasks.task.Task`."""

    name = "masked-lm"
    row_labels = False
    counted = "masked tokens"
    perplexity = True

    def load(
        self, artifact: Artifact, source: DataSource, on_rows: OnRows | None = None
    ) -> LoadedData:
        """Texts of a txt, csv, tsv, jsonl or parquet file; longer ones are cut."""
        text, tokenizer = text_of(artifact)
        assert text.mask_id is not None and text.vocabulary is not None  # noqa: S101, PT018
        request = ColumnRequest(
            text=source.text_column,
            user=source.user_column,
            require_labels=False,
            skip_empty=source.skip_empty,
        )
        rows = read_table(source.path, request)
        tokens = tokenise(
            rows, tokenizer, max_length=source.max_length, label_names=None, progress=on_rows
        )
        dataset = MaskedRows(
            tokens,
            text.pad_id,
            text.inputs,
            mask_id=text.mask_id,
            vocabulary=text.vocabulary,
            special_ids=text.special_ids,
        )
        return LoadedData(dataset, rows.file_sha256, rows.columns, rows.skipped)

    def read(self, artifact: Artifact, items: Sequence[str], max_length: int) -> NoReturn:
        """There is no label to predict."""
        raise no_prediction(self.name, "fills masks")
