"""Rows whose text is a list of words with a label for each: lists, or strings cut at white space."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ravan_edge.data.rows import (
    ColumnRequest,
    Columns,
    ReaderLimits,
    RowCollector,
    Rows,
    data_error,
    json_type,
)

__all__ = [
    "WORDS_LIMIT",
    "WORD_COLUMNS",
    "WORD_LABEL_COLUMNS",
    "WordCollector",
    "WordRows",
    "collector_for",
    "word_request",
]

WORD_COLUMNS = ("tokens", "words", "text", "sentence")
WORD_LABEL_COLUMNS = ("tags", "ner_tags", "labels", "label", "word_labels")

WORDS_LIMIT = 20_000_000
"""The most words of a file; they are held in memory while it is read."""

_LABEL_HINT = "write a list with one name or index for each word, or names with spaces between them"


@dataclass(frozen=True, slots=True)
class WordRows(Rows):
    """The rows of a data file, word by word, so that each label knows the row it stands in.

    ``texts``, ``labels`` and ``numbers`` are [words] here, all rows one behind the other; ``users``
    is [rows].

    Args:
        offsets: int64 [rows + 1]; row i has the words ``texts[offsets[i]:offsets[i + 1]]``.
    """

    offsets: NDArray[np.int64] = field(kw_only=True)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> list[str]:
        """The words of one row."""
        return self.texts[self.offsets[index] : self.offsets[index + 1]]

    def where_row(self, index: int) -> str:
        """File and row of the row ``index``, for a message (``where`` takes a word)."""
        return self.where(int(self.offsets[index]))


def word_request(
    *,
    text: str | None = None,
    label: str | None = None,
    user: str | None = None,
    require_text: bool = True,
    skip_empty: bool = False,
) -> ColumnRequest:
    """The columns of words and their labels: by name, or found by the usual names."""
    return ColumnRequest(
        text=text,
        label=label,
        user=user,
        require_text=require_text,
        skip_empty=skip_empty,
        text_names=WORD_COLUMNS,
        label_names=WORD_LABEL_COLUMNS,
        words=True,
    )


def collector_for(
    source: str, request: ColumnRequest, columns: Columns, limits: ReaderLimits, unit: str
) -> RowCollector:
    """What collects the rows that a request asks for."""
    kind = WordCollector if request.words else RowCollector
    return kind(source, request, columns, limits, unit)


def _blank(words: object) -> bool:
    return isinstance(words, list) and all(
        isinstance(word, str) and not word.strip() for word in words
    )


class WordCollector(RowCollector):
    """Checks rows of words one by one; labels may be asked for without words (a label map)."""

    def __init__(
        self, source: str, request: ColumnRequest, columns: Columns, limits: ReaderLimits, unit: str
    ) -> None:
        super().__init__(source, request, columns, limits, unit)
        self._offsets = [0]
        # One object for each label, however many words have it.
        self._known: dict[str | int, str | int] = {}

    def add(self, number: int, text: object, label: object, user: object) -> None:
        """Check a row and keep it if it is good. None stands for a value that is missing.

        Raises:
            DataError: The texts together exceed the limit, or the words do.
        """
        words = text.split() if isinstance(text, str) else text
        labels = label.split() if isinstance(label, str) else label
        if self._skip_empty and _blank(words):
            self._skipped += 1
            return
        good = True
        if self._columns.text is not None:
            good = self._good_words(number, words)
        if self._columns.label is not None:
            good = self._good_labels(number, labels) and good
        if self._columns.user is not None:
            good = self._good_user(number, user) and good
        if not good:
            return
        found = [part for part in (words, labels) if isinstance(part, list)]
        if len({len(part) for part in found}) > 1:
            counts = " and ".join(
                f"{len(part)} {kind}" for part, kind in zip(found, ("words", "labels"), strict=True)
            )
            hint = "give each word exactly one label"
            self.problem("that do not have a label for each word", number, hint, counts)
            return
        self._keep(number, words, labels, user)

    def _keep(self, number: int, words: object, labels: object, user: object) -> None:
        count = 0
        if isinstance(words, list) and self._columns.text is not None:
            self._texts += words
            count = len(words)
        if isinstance(labels, list) and self._columns.label is not None:
            self._labels += [self._known.setdefault(label, label) for label in labels]
            count = len(labels)
        if self._columns.user is not None:
            self._users.append(str(user))
        self._numbers += [number] * count
        self._offsets.append(self._offsets[-1] + count)
        if self._offsets[-1] > WORDS_LIMIT:
            raise data_error(
                f"more than {WORDS_LIMIT} words",
                self._source,
                number,
                self._unit,
                "use a part of the file",
            )

    def _good_words(self, number: int, words: object) -> bool:
        if words is None:
            self.problem("without words", number, "fill them in, or remove the row")
            return False
        listed = words if isinstance(words, list) else [words]
        bad = [word for word in listed if not isinstance(word, str)]
        if bad or not isinstance(words, list):
            kind = "whose words are not a list of strings"
            hint = 'write ["word", "word", ...], or a string with spaces between the words'
            self.problem(kind, number, hint, f"found {json_type((bad or [words])[0])}")
            return False
        if _blank(words):
            hint = "fill them in, remove the row, or leave such rows out with --skip-empty"
            self.problem("without any word", number, hint)
            return False
        return self._good_text(number, " ".join(words))

    def _good_labels(self, number: int, labels: object) -> bool:
        if labels is None:
            self.problem("without labels", number, "fill them in, or remove the row")
            return False
        listed = labels if isinstance(labels, list) else [labels]
        bad = [
            label
            for label in listed
            if isinstance(label, bool) or not isinstance(label, (str, int))
        ]
        if bad or not isinstance(labels, list):
            kind = "whose labels are not a list of strings or integers"
            self.problem(kind, number, _LABEL_HINT, f"found {json_type((bad or [labels])[0])}")
            return False
        if any(isinstance(label, str) and not label.strip() for label in labels):
            self.problem("with an empty label", number, "give each word exactly one label")
            return False
        return True

    def finish(self, file_sha256: str, label_names: tuple[str, ...] | None = None) -> WordRows:
        """All rows.

        Raises:
            DataError: Any row was bad, or there was none.
        """
        rows = super().finish(file_sha256, label_names)
        values = {name: getattr(rows, name) for name in Rows.__dataclass_fields__}
        return WordRows(**values, offsets=np.array(self._offsets, np.int64))
