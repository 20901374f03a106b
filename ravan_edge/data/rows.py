"""What every reader hands on: rows with their numbers, and one way to refuse bad ones.

A reader goes on after a bad row, so that one error names the first few of them and how many there
are, and the user mends the file once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ravan_edge.errors import DataError, UsageError

__all__ = [
    "ANSWER_COLUMNS",
    "LABEL_COLUMNS",
    "PROMPT_COLUMNS",
    "TEXT_COLUMNS",
    "ColumnRequest",
    "Columns",
    "ReaderLimits",
    "RowCollector",
    "Rows",
    "data_error",
    "json_type",
]

TEXT_COLUMNS = (
    "text", "sentence", "content", "utterance", "body", "message", "query", "document",
)  # fmt: skip
PROMPT_COLUMNS = (*TEXT_COLUMNS, "prompt", "question", "instruction", "source", "input")
ANSWER_COLUMNS = (
    "answer", "response", "completion", "output", "reply", "summary", "translation", "target",
)  # fmt: skip
LABEL_COLUMNS = ("label", "labels", "category", "intent", "target", "class")

_SHOWN_ROWS = 5
_SHOWN_COLUMNS = 20
_SHOWN_PROBLEMS = 3


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """What a reader takes before it refuses a file; texts are held in memory while they are read.

    Args:
        row_bytes: The longest row: a csv record or json line with its line end, a parquet text.
        rows: The most rows.
        text_bytes: All texts together, as UTF-8.
    """

    row_bytes: int = 1 << 20
    rows: int = 2_000_000
    text_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that are read; None: that one is not."""

    text: str | None
    label: str | None
    user: str | None


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a data file, in its order.

    Args:
        source: The path as it was given, for messages.
        file_sha256: Of the file's bytes, 64 hex digits.
        columns: Which columns were used.
        texts: [rows], none of them empty. (Empty as a list where no text was asked for.)
        labels: [rows] as in the file, or None.
        users: [rows] the natural user of each row, or None.
        numbers: [rows] line numbers (csv, jsonl; from 1, the header is a line) or row numbers
            (parquet; from 1).
        unit: What ``numbers`` counts, "line" or "row".
        label_names: What integer labels mean, from the schema metadata of a parquet file.
        skipped: How many rows with an empty text were left out, where that was asked for.
    """

    source: str
    file_sha256: str
    columns: Columns
    texts: list[str]
    labels: list[str | int] | None
    users: list[str] | None
    numbers: list[int]
    unit: str
    label_names: tuple[str, ...] | None = None
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, index: int) -> str:
        """File and row of the row ``index``, for a message."""
        return f"{self.source}, {self.unit} {self.numbers[index]}"


def data_error(message: str, source: str, number: int | None, unit: str, hint: str) -> DataError:
    """A :class:`DataError` about one row, or about the whole file where ``number`` is None."""
    where = source if number is None else f"{source}, {unit} {number}"
    return DataError(message, where=where, hint=hint)


@dataclass(frozen=True, slots=True)
class ColumnRequest:
    """Which columns a caller wants: by name, or found by the usual names.

    Args:
        text: Name of the text column; None: the only one of ``TEXT_COLUMNS``.
        label: Name of the label column; None: the only one of ``LABEL_COLUMNS``.
        user: Name of the column of natural users; None: not read.
        require_text: False: texts are not read at all.
        require_labels: False: labels are read only where ``label`` names their column.
        skip_empty: True: rows with an empty text are left out, not refused.
        labels_if_there: True: labels that are not required are read from a column with a usual name.
        text_names: The usual names of texts.
        label_names: The usual names of labels.
        words: True: texts are lists of words, labels lists with one for each of them.
    """

    text: str | None = None
    label: str | None = None
    user: str | None = None
    require_text: bool = True
    require_labels: bool = True
    skip_empty: bool = False
    labels_if_there: bool = False
    text_names: tuple[str, ...] = TEXT_COLUMNS
    label_names: tuple[str, ...] = LABEL_COLUMNS
    words: bool = False

    def __post_init__(self) -> None:
        if self.text is not None and self.text == self.label:
            raise UsageError(
                f"--text-column and --label-column both name {self.text!r}",
                hint="name two different columns",
            )

    def resolve(self, found: Sequence[str], source: str) -> Columns:
        """The columns to read, given all that the file has.

        Raises:
            DataError: One is not there, is there twice, or several fit; lists what was found.
        """
        text = label = user = None
        if self.require_text:
            text = _one_column("text", self.text, self.text_names, found, source)
        there = self.labels_if_there and any(_usual(name, self.label_names) for name in found)
        if self.require_labels or self.label is not None or there:
            label = _one_column("label", self.label, self.label_names, found, source)
        if self.user is not None:
            user = _one_column("user", self.user, (), found, source)
        return Columns(text=text, label=label, user=user)


def _usual(column: str, names: tuple[str, ...]) -> bool:
    return column.strip().casefold() in names


def _one_column(
    kind: str, name: str | None, usual: tuple[str, ...], found: Sequence[str], source: str
) -> str:
    option = "--partition column:NAME" if kind == "user" else f"--{kind}-column"
    listed = ", ".join(repr(column[:80]) for column in found[:_SHOWN_COLUMNS])
    if len(found) > _SHOWN_COLUMNS:
        listed += f", ... ({len(found)} columns)"
    if name is not None:
        fitting = [column for column in found if column == name]
        if not fitting:
            raise DataError(
                f"no column {name!r}; found {listed}",
                where=source,
                hint=f"name one of them with {option}",
            )
    else:
        fitting = [column for column in found if _usual(column, usual)]
        if not fitting:
            raise DataError(
                f"no {kind} column: none is called {', '.join(usual)}; found {listed}",
                where=source,
                hint=f"name it with {option} (the first line of a csv must name the columns)",
            )
    if len(set(fitting)) > 1:
        raise DataError(
            f"several columns may be the {kind}: {', '.join(map(repr, fitting))}; found {listed}",
            where=source,
            hint=f"name the right one with {option}",
        )
    if len(fitting) > 1:
        raise DataError(
            f"column {fitting[0]!r} is there {len(fitting)} times; found {listed}",
            where=source,
            hint="give each column its own name",
        )
    return fitting[0]


@dataclass(slots=True)
class _Problem:
    hint: str
    count: int = 0
    shown: list[tuple[int, str]] = field(default_factory=list)


class RowCollector:
    """Checks rows one by one and remembers what is wrong with them."""

    def __init__(
        self, source: str, request: ColumnRequest, columns: Columns, limits: ReaderLimits, unit: str
    ) -> None:
        self._source = source
        self._skip_empty = request.skip_empty
        self._columns = columns
        self._limits = limits
        self._unit = unit
        self._problems: dict[str, _Problem] = {}
        self._text_bytes = 0
        self._texts: list[str] = []
        self._labels: list[str | int] = []
        self._users: list[str] = []
        self._numbers: list[int] = []
        self._seen = 0
        self._skipped = 0

    def use(self, columns: Columns) -> None:
        """From now on rows have these columns (a jsonl file shows them in its first object)."""
        self._columns = columns

    def problem(self, kind: str, number: int, hint: str, detail: str = "") -> None:
        """Remember that row ``number`` is bad; ``kind`` goes on after "2 rows ..."."""
        entry = self._problems.setdefault(kind, _Problem(hint))
        entry.count += 1
        if len(entry.shown) < _SHOWN_ROWS:
            entry.shown.append((number, detail))

    def count_row(self, number: int) -> None:
        """Count a row, good or bad.

        Raises:
            DataError: There are more rows than the limit.
        """
        self._seen += 1
        if self._seen > self._limits.rows:
            raise data_error(
                f"more than {self._limits.rows} rows",
                self._source,
                number,
                self._unit,
                "use a part of the file",
            )

    def add(self, number: int, text: object, label: object, user: object) -> None:
        """Check a row and keep it if it is good. None stands for a value that is missing.

        Raises:
            DataError: The texts together exceed the limit.
        """
        if self._skip_empty and isinstance(text, str) and not text.strip():
            self._skipped += 1
            return
        good = True
        if self._columns.text is not None:
            good = self._good_text(number, text)
        if self._columns.label is not None:
            good = self._good_label(number, label) and good
        if self._columns.user is not None:
            good = self._good_user(number, user) and good
        if not good:
            return
        if isinstance(text, str) and self._columns.text is not None:
            self._texts.append(text)
        if isinstance(label, (str, int)) and self._columns.label is not None:
            self._labels.append(label)
        if self._columns.user is not None:
            self._users.append(str(user))
        self._numbers.append(number)

    def _good_text(self, number: int, text: object) -> bool:
        if not isinstance(text, str):
            if text is None:
                self.problem("without a text", number, "fill in the text, or remove the row")
            else:
                kind = "whose text is not a string"
                detail = f"found {json_type(text)}"
                self.problem(kind, number, "put quotes around the text", detail)
            return False
        if not text.strip():
            hint = "fill in the text, remove the row, or leave such rows out with --skip-empty"
            self.problem("with an empty text", number, hint)
            return False
        try:
            size = len(text) if text.isascii() else len(text.encode())
        except UnicodeEncodeError as error:
            hint = "write the text as valid Unicode (half of a surrogate pair is not)"
            detail = f"found \\u{ord(text[error.start]):04x}"
            self.problem("whose text is not valid Unicode", number, hint, detail)
            return False
        self._text_bytes += size
        if self._text_bytes > self._limits.text_bytes:
            raise data_error(
                f"the texts are more than {self._limits.text_bytes} bytes together",
                self._source,
                number,
                self._unit,
                "use a part of the file",
            )
        return True

    def _good_label(self, number: int, label: object) -> bool:
        if label is None or (isinstance(label, str) and not label.strip()):
            self.problem("without a label", number, "fill in the label, or remove the row")
            return False
        if isinstance(label, bool) or not isinstance(label, (str, int)):
            kind = "whose label is neither a string nor an integer"
            detail = f"found {json_type(label)}"
            self.problem(kind, number, "write the label's name or its index", detail)
            return False
        return True

    def _good_user(self, number: int, user: object) -> bool:
        if user is None or (isinstance(user, str) and not user.strip()):
            self.problem("without a user", number, "fill in the user, or remove the row")
            return False
        if isinstance(user, bool) or not isinstance(user, (str, int)):
            kind = "whose user is neither a string nor an integer"
            detail = f"found {json_type(user)}"
            self.problem(kind, number, "write the user's name or number", detail)
            return False
        return True

    def finish(self, file_sha256: str, label_names: tuple[str, ...] | None = None) -> Rows:
        """All rows.

        Raises:
            DataError: Any row was bad, or there was none.
        """
        if self._problems:
            raise self._error()
        if not self._numbers:
            raise DataError(
                "no rows",
                where=self._source,
                hint="a csv needs rows below its header, a jsonl file one object a line",
            )
        return Rows(
            source=self._source,
            file_sha256=file_sha256,
            columns=self._columns,
            texts=self._texts,
            labels=self._labels if self._columns.label is not None else None,
            users=self._users if self._columns.user is not None else None,
            numbers=self._numbers,
            unit=self._unit,
            label_names=label_names,
            skipped=self._skipped,
        )

    def _error(self) -> DataError:
        kinds = sorted(self._problems.items(), key=lambda item: item[1].shown[0][0])
        parts = []
        for kind, problem in kinds[:_SHOWN_PROBLEMS]:
            rows = ", ".join(
                f"{self._unit} {number}" + (f": {detail}" if detail else "")
                for number, detail in problem.shown
            )
            if problem.count > len(problem.shown):
                rows += ", ..."
            noun = "row" if problem.count == 1 else "rows"
            parts.append(f"{problem.count} {noun} {kind} ({rows})")
        if len(kinds) > _SHOWN_PROBLEMS:
            parts.append("and further problems")
        first = kinds[0][1]
        return data_error("; ".join(parts), self._source, first.shown[0][0], self._unit, first.hint)


def json_type(value: object) -> str:
    """What a value is, in the words of a message."""
    names = {bool: "true or false", int: "a number", float: "a number with a fraction"}
    names |= {str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
