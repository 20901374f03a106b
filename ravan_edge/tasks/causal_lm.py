"""Causal language modelling: the next token of plain text, or of answers to prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ravan_edge.artifact import Artifact
from ravan_edge.data import NextTokenRows
from ravan_edge.data.language import tokenise_answers, tokenise_language
from ravan_edge.data.readers import read_table
from ravan_edge.data.rows import ANSWER_COLUMNS, PROMPT_COLUMNS, ColumnRequest
from ravan_edge.tasks.task import DataSource, LoadedData, OnRows
from ravan_edge.tasks.text import no_prediction, text_of

__all__ = ["CausalLanguage"]


class CausalLanguage:
    """See :class:`ravan_edge.tasks.task.Task`.

    With a column of answers (``answer``, ``response``, ... or ``--label-column``), texts are prompts
    and only answers are learned, in the words of the tokenizer's chat template where it has one.
    """

    name = "causal-lm"
    row_labels = False
    counted = "tokens"
    perplexity = True

    def load(
        self, artifact: Artifact, source: DataSource, on_rows: OnRows | None = None
    ) -> LoadedData:
        """Texts, or prompts and answers, of a txt, csv, tsv, jsonl or parquet file."""
        text, tokenizer = text_of(artifact)
        assert text.end_id is not None  # noqa: S101  (a manifest of this task has it)
        request = ColumnRequest(
            text=source.text_column,
            label=source.label_column,
            user=source.user_column,
            require_labels=False,
            labels_if_there=True,
            skip_empty=source.skip_empty,
            text_names=PROMPT_COLUMNS,
            label_names=ANSWER_COLUMNS,
        )
        rows = read_table(source.path, request)
        skipped = rows.skipped
        if rows.labels is None:
            tokens = tokenise_language(
                rows,
                tokenizer,
                max_length=source.max_length,
                end_id=text.end_id,
                progress=on_rows,
            )
        else:
            tokens = tokenise_answers(
                rows,
                tokenizer,
                max_length=source.max_length,
                end_id=text.end_id,
                template=text.prompt,
                progress=on_rows,
            )
            skipped += len(rows) - len(tokens)
        dataset = NextTokenRows(tokens, text.pad_id, text.inputs)
        return LoadedData(dataset, rows.file_sha256, rows.columns, skipped)

    def read(self, artifact: Artifact, items: Sequence[str], max_length: int) -> NoReturn:
        """There is no label to predict."""
        raise no_prediction(self.name, "generates text")
