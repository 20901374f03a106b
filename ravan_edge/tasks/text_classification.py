"""Text classification: one label for each text."""

from __future__ import annotations

from collections.abc import Sequence

from ravan_edge.artifact import Artifact
from ravan_edge.data import TextRows, read_rows, tokenise, tokenise_texts
from ravan_edge.tasks.task import DataSource, LoadedData, OnRows
from ravan_edge.tasks.text import text_of

__all__ = ["TextClassification"]


class TextClassification:
    """See :class:`ravan_edge.tasks.task.Task`."""

    name = "text-classification"
    row_labels = True
    counted = "rows"
    perplexity = False

    def load(
        self, artifact: Artifact, source: DataSource, on_rows: OnRows | None = None
    ) -> LoadedData:
        """Texts and labels of a csv, tsv, jsonl or parquet file."""
        text, tokenizer = text_of(artifact)
        rows = read_rows(
            source.path,
            text_column=source.text_column,
            label_column=source.label_column,
            user_column=source.user_column,
            skip_empty=source.skip_empty,
        )
        tokens = tokenise(
            rows,
            tokenizer,
            max_length=source.max_length,
            label_names=artifact.manifest.labels,
            progress=on_rows,
        )
        dataset = TextRows(tokens, text.pad_id, text.inputs)
        return LoadedData(dataset, rows.file_sha256, rows.columns, rows.skipped)

    def read(self, artifact: Artifact, items: Sequence[str], max_length: int) -> TextRows:
        """Texts as rows without labels."""
        text, tokenizer = text_of(artifact)
        tokens = tokenise_texts(items, tokenizer, max_length=max_length)
        return TextRows(tokens, text.pad_id, text.inputs)
