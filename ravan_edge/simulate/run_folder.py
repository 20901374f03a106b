"""The run folder: what is on disk, in an order that survives a kill at any moment.

A round is committed by one fsync: metric lines are appended to metrics.jsonl without one, and the
checkpoint (temporary file, fsync, rename) carries all lines that are not known to be durable. When
those grow large, metrics.jsonl is synced and they are dropped. Resuming cuts metrics.jsonl back to
its durable length and appends the checkpoint's lines. The folder itself is not synced each round:
should a rename be lost with the power, the checkpoint before it is as good, and the round is
computed again to the same bits.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ravan_edge.closing import Closing
from ravan_edge.errors import StorageError, UsageError
from ravan_edge.files import storage_errors, sync_folder, write_atomic
from ravan_edge.folder_lock import FolderLock
from ravan_edge.simulate.state import RunState, state_from_bytes, state_to_bytes

__all__ = ["RunFolder", "check_folder", "json_bytes", "read_summary"]

RUN_NAME = "run.json"
SUMMARY_NAME = "summary.json"
METRICS_NAME = "metrics.jsonl"
TIMING_NAME = "timing.jsonl"
CHECKPOINT_NAME = "checkpoint"
HEADS_FOLDER = "heads"
SCRATCH_FOLDER = ".differences"

_MOST_PENDING_BYTES = 256 * 1024
# What may lie beside the files of a run: the demo keeps everything it made in one folder.
_BESIDE = {"artifact"}
_HINT_FOLDER = "name another folder with --out"


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """A JSON file a person can read."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of a finished run; None where there is none.

    Raises:
        StorageError: The file is damaged.
    """
    return _read_json(folder / SUMMARY_NAME)


def check_folder(path: Path, configuration: Mapping[str, Any]) -> None:
    """Refuse a folder that holds something else; writes nothing.

    Raises:
        UsageError: It is not empty and holds no run, or a run with another configuration.
        StorageError: It cannot be read.
    """
    known = _read_json(path / RUN_NAME)
    if known is not None:
        _compare(known.get("configuration", {}), _as_json(configuration), path)
        return
    with storage_errors(path, "read the run folder"):
        if path.exists() and not path.is_dir():
            raise UsageError("is not a folder", where=str(path), hint=_HINT_FOLDER)
        found = sorted(
            entry.name
            for entry in (path.iterdir() if path.exists() else ())
            if not entry.name.startswith(".") and entry.name not in _BESIDE
        )
    if found:
        raise UsageError(
            f"the folder is not empty ({found[0]!r}) and holds no run",
            where=str(path),
            hint=_HINT_FOLDER,
        )


def _as_json(document: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from a file: tuples are lists."""
    return dict(json.loads(json_bytes(document)))


class RunFolder(Closing):
    """A locked run folder that belongs to one configuration. Use it in a ``with`` statement.

    Args:
        path: Made where it is not there.
        configuration: What decides every bit of the result, ready for JSON. A folder that holds
            another one is refused.
        extra: Further keys of run.json that do not take part in the comparison.

    Raises:
        UsageError: The folder holds something else, another configuration, or is in use.
        StorageError: It cannot be written or read.
    """

    def __init__(
        self, path: Path, configuration: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.heads_path = path / HEADS_FOLDER
        self.scratch = path / SCRATCH_FOLDER
        with storage_errors(path, "make the run folder"):
            path.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(path)
        try:
            # Again, now that nobody else can write it.
            check_folder(path, configuration)
            if not (path / RUN_NAME).exists():
                write_atomic(
                    path / RUN_NAME, [json_bytes({"configuration": configuration, **extra})]
                )
            with storage_errors(path, "make the run folder"):
                self.heads_path.mkdir(exist_ok=True)
                shutil.rmtree(self.scratch, ignore_errors=True)  # of a process that was killed
        except BaseException:
            self._lock.close()
            raise
        self._metrics = path / METRICS_NAME
        self._checkpoint = path / CHECKPOINT_NAME
        self._durable_bytes = 0
        self._pending = b""

    def resume(self) -> RunState | None:
        """The state of the last committed round, or None; the files are cut back to it.

        Raises:
            StorageError: A file is damaged or cannot be read.
        """
        with storage_errors(self._checkpoint, "read the checkpoint"):
            content = self._checkpoint.read_bytes() if self._checkpoint.exists() else None
        if content is None:
            state, self._durable_bytes, self._pending = None, 0, b""
        else:
            state, self._durable_bytes, self._pending = state_from_bytes(
                content, str(self._checkpoint)
            )
        with (
            storage_errors(self._metrics, "cut the metrics back"),
            self._metrics.open("ab") as file,
        ):
            if file.tell() < self._durable_bytes:
                raise StorageError(
                    f"{file.tell()} bytes, expected at least {self._durable_bytes}",
                    where=str(self._metrics),
                    hint="somebody changed the file: start the run again in another folder",
                )
            file.truncate(self._durable_bytes)
        self._append(self._metrics, self._pending)
        self._keep_timing(-1 if state is None else state.round)
        return state

    def commit(self, state: RunState, lines: Iterable[bytes]) -> None:
        """Make a round durable: its metric lines and the state after it.

        Raises:
            StorageError: The disk is full, or the like. The round before is still there.
        """
        new = b"".join(lines)
        self._append(self._metrics, new)
        pending = self._pending + new
        durable = self._durable_bytes
        if len(pending) > _MOST_PENDING_BYTES:
            with (
                storage_errors(self._metrics, "sync the metrics"),
                self._metrics.open("ab") as file,
            ):
                os.fsync(file.fileno())
            durable, pending = durable + len(pending), b""
        temporary = self._checkpoint.with_name(f".{CHECKPOINT_NAME}.tmp")
        with storage_errors(self._checkpoint, "write the checkpoint"):
            with temporary.open("wb") as file:
                file.writelines(state_to_bytes(state, durable, pending))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._checkpoint)
        self._durable_bytes, self._pending = durable, pending

    def add_timing(self, values: Mapping[str, Any]) -> None:
        """One line of timing.jsonl: wall time, which no two runs share."""
        self._append(self.path / TIMING_NAME, json.dumps(values).encode() + b"\n")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, the sign of a finished run, after everything else is durable."""
        with storage_errors(self._metrics, "sync the metrics"), self._metrics.open("ab") as file:
            os.fsync(file.fileno())
        with storage_errors(self.path, "sync the run folder"):
            sync_folder(self.path)
        write_atomic(self.path / SUMMARY_NAME, [json_bytes(summary)])
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _keep_timing(self, rounds: int) -> None:
        path = self.path / TIMING_NAME
        with storage_errors(path, "cut the timing back"):
            if path.exists():
                kept = []
                for text in path.read_bytes().splitlines(keepends=True):
                    try:
                        if json.loads(text)["round"] <= rounds:
                            kept.append(text)
                    except (ValueError, KeyError):  # the torn last line of a killed process
                        continue
                write_atomic(path, kept, durable=False)

    @staticmethod
    def _append(path: Path, content: bytes) -> None:
        if content:
            with storage_errors(path, "append to the file"), path.open("ab") as file:
                file.write(content)

    def close(self) -> None:
        """Let the next process have it."""
        self._lock.close()


def _read_json(path: Path) -> dict[str, Any] | None:
    with storage_errors(path, "read the file"):
        if not path.exists():
            return None
        content = path.read_bytes()
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise StorageError("the file is damaged", where=str(path), hint=_HINT_FOLDER)
    return document


def _compare(known: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Refuse another configuration; names each setting that differs."""
    differences = []
    for section in sorted(known.keys() | wanted.keys()):
        before, now = known.get(section), wanted.get(section)
        if isinstance(before, dict) and isinstance(now, dict):
            differences += [
                f"{key} is {json.dumps(before.get(key))} there and {json.dumps(now.get(key))} here"
                for key in sorted(before.keys() | now.keys())
                if before.get(key) != now.get(key)
            ]
        elif before != now:
            differences.append(
                f"{section} is {json.dumps(before)} there and {json.dumps(now)} here"
            )
    if differences:
        raise UsageError(
            f"the folder holds a run with another configuration: {'; '.join(differences)}",
            where=str(path),
            hint=f"{_HINT_FOLDER}, or remove the folder to start over",
        )
