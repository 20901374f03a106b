"""What a device keeps on disk, so that it can be killed at any moment.

::

    STATE/device.json              its id, drawn once
    STATE/log.jsonl                what it took part in, a line each
    STATE/round/task.json          the task it is doing
    STATE/round/heads.safetensors  the heads that task starts from
    STATE/round/unfinished         the training so far
    STATE/round/update.safetensors what it will send, or is sending
    STATE/last-update.safetensors  what left last; last-update.json says when, and if it arrived
    STATE/blobs/, STATE/artifacts/ what was downloaded (cache.py)
    STATE/trust.json, STATE/signature.json  whose artifacts it trains (trust.py)
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ravan_edge.device.residual import DeviceResidual
from ravan_edge.errors import StorageError
from ravan_edge.files import storage_errors, sync_folder, write_atomic
from ravan_edge.protocol import Reason, TaskOffer

__all__ = ["CurrentTask", "DeviceState"]

_ID_BYTES = 16
_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_MOST_LOG_BYTES = 4 << 20


@dataclass(frozen=True)
class CurrentTask:
    """The task a device is doing.

    Attributes:
        offer: As the server made it.
        server: Whose it is.
        deadline_at: Seconds since 1970 by this device's clock.
    """

    offer: TaskOffer
    server: str
    deadline_at: float


class DeviceState:
    """A device's folder.

    Args:
        folder: Made where it is missing.

    Raises:
        StorageError: It cannot be made, or a file of it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._round = folder / "round"
        self.residual = DeviceResidual(folder, self._round)
        with storage_errors(folder, "make the folder"):
            # Only for its owner: updates tell something about the rows they were made from.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.device = self._identity()

    # -- the round

    @property
    def heads_path(self) -> Path:
        """The heads that the task starts from."""
        return self._round / "heads.safetensors"

    @property
    def unfinished_path(self) -> Path:
        """The training so far."""
        return self._round / "unfinished"

    @property
    def update_path(self) -> Path:
        """What will be sent, or is being sent."""
        return self._round / "update.safetensors"

    @property
    def last_update_path(self) -> Path:
        """What left this device last."""
        return self.folder / "last-update.safetensors"

    def begin(self, task: CurrentTask) -> None:
        """From now on the device does this task, also after a kill."""
        with storage_errors(self._round, "make the folder"):
            shutil.rmtree(self._round, ignore_errors=True)
            self._round.mkdir()
            sync_folder(self.folder)
        self.residual.drop_unless(task.offer.artifact)
        self._write_task(task)
        self.add_to_log("task", task.offer, server=task.server)

    def moved(self, task: CurrentTask, server: str) -> None:
        """The server of the task has another address now; only who knows that it is the same may say so."""
        self._write_task(replace(task, server=server))

    def _write_task(self, task: CurrentTask) -> None:
        document = {
            "server": task.server,
            "deadline_at": task.deadline_at,
            "offer": task.offer.model_dump(mode="json"),
        }
        write_atomic(self._round / "task.json", [_json(document)])

    def current(self) -> CurrentTask | None:
        """The task it was doing when it ended; None: none."""
        path = self._round / "task.json"
        if not path.exists():
            return None
        try:
            document = json.loads(_read(path))
            return CurrentTask(
                TaskOffer.model_validate(document["offer"]),
                document["server"],
                float(document["deadline_at"]),
            )
        except (ValueError, KeyError, TypeError, ValidationError):
            # Written atomically, so somebody changed it. The server gives the task out again.
            self.forget_round()
            return None

    def sending(self, task: CurrentTask, content: bytes, sha256: str) -> None:
        """The update is about to leave: it can be looked at from now on, whatever becomes of it."""
        write_atomic(self.last_update_path, [content])
        self._remember_sent(task, sha256, acknowledged=False)

    def acknowledged(self, task: CurrentTask, sha256: str) -> None:
        """The server has the update, the round is over."""
        self._remember_sent(task, sha256, acknowledged=True)
        self.residual.settle(acknowledged=True)
        self.add_to_log("sent", task.offer, sha256=sha256)
        self.forget_round()

    def refused(self, offer: TaskOffer, reason: Reason) -> None:
        """The server will never take the update, the round is over."""
        if reason is not Reason.DIFFERENT_UPDATE:  # then it counts another one of this task
            self.residual.settle(acknowledged=False)
        self.add_to_log("refused", offer, reason=str(reason))
        self.forget_round()

    def forget_round(self) -> None:
        """There is no task any more."""
        with storage_errors(self._round, "delete the round"):
            # The task first: without it the rest is nothing.
            (self._round / "task.json").unlink(missing_ok=True)
            shutil.rmtree(self._round, ignore_errors=True)

    # -- the log

    def add_to_log(self, event: str, offer: TaskOffer | None = None, **more: Any) -> None:  # noqa: ANN401
        """One line of the participation log."""
        values: dict[str, Any] = {"at": _now(), "event": event}
        if offer is not None:
            values |= {"task": offer.task, "round": offer.round, "version": offer.version}
        path = self.folder / "log.jsonl"
        with storage_errors(path, "append to the file"):
            if path.exists() and path.stat().st_size > _MOST_LOG_BYTES:
                path.replace(path.with_suffix(".old.jsonl"))
            with path.open("ab") as file:
                file.write(json.dumps(values | more, allow_nan=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())

    def log(self) -> Iterator[Mapping[str, Any]]:
        """The participation log, oldest first."""
        path = self.folder / "log.jsonl"
        if path.exists():
            for line in _read(path).splitlines():
                try:
                    yield json.loads(line)
                except ValueError:  # the torn last line of a killed process
                    continue

    def last_update(self) -> Mapping[str, Any] | None:
        """Where and when the last update went, and whether it was acknowledged; None: none left."""
        path = self.folder / "last-update.json"
        if not (path.exists() and self.last_update_path.exists()):
            return None
        try:
            document = json.loads(_read(path))
        except ValueError:
            return None
        return document if isinstance(document, dict) else None

    def _remember_sent(self, task: CurrentTask, sha256: str, *, acknowledged: bool) -> None:
        document = {
            "server": task.server,
            "task": task.offer.task,
            "sha256": sha256,
            "at": _now(),
            "acknowledged": acknowledged,
        }
        write_atomic(self.folder / "last-update.json", [_json(document)])

    def _identity(self) -> str:
        path = self.folder / "device.json"
        if not path.exists():
            device = secrets.token_hex(_ID_BYTES)
            write_atomic(path, [_json({"device": device})])
            return device
        try:
            found = json.loads(_read(path))["device"]
        except (ValueError, KeyError, TypeError):
            found = None
        if not isinstance(found, str) or not _ID.fullmatch(found):
            raise StorageError(
                "the file is damaged",
                where=str(path),
                hint="delete it: the device then counts as a new one",
            )
        return found


def _json(document: object) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def _read(path: Path) -> bytes:
    with storage_errors(path, "read the file"):
        return path.read_bytes()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
