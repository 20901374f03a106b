"""A simulated device in front of a real server: the device's own client, with rows and a number of the run.

What a device found is on disk before anything of it leaves the device, so that a round whose updates
the server has, and which the run folder does not, can be finished without training anybody again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ravan_edge.codecs import CodecName
from ravan_edge.data import SomeRows
from ravan_edge.device import Device, DeviceSettings, DeviceState, ServerConnection
from ravan_edge.errors import NumericsError, ServerRefusedError, UsageError, WorkerError
from ravan_edge.files import storage_errors, write_atomic
from ravan_edge.merge import ExactSum
from ravan_edge.protocol import TaskOffer
from ravan_edge.simulate.messages import OpenData
from ravan_edge.simulate.metrics import Trained, failed_status
from ravan_edge.simulate.server_identities import ServerIdentities
from ravan_edge.training import LocalResult, option_name

__all__ = ["PATIENCE_SECONDS", "ServerDevices", "TaskOutcome"]

PATIENCE_SECONDS = 60.0
"""How long a server may not answer before the run ends."""

_OUTCOME_NAME = "outcome.json"
_MOST_TRIES = 3


@dataclass(frozen=True)
class TaskOutcome:
    """How a device's task ended, as far as the device knows.

    Attributes:
        version: That it trained from.
        attempt: The server's attempt that it belongs to.
        status: ``merged``, ``bad_numbers`` or ``crashed``.
        trained: What it did; None: it failed.
        error: Why it failed.
    """

    version: int
    attempt: int
    status: str
    trained: Trained | None
    error: str | None = None

    def to_json(self) -> bytes:
        """For the device's folder: every float comes back as it was."""
        return json.dumps(asdict(self), allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> TaskOutcome | None:
        """What :meth:`to_json` wrote; None: something else."""
        try:
            values = json.loads(content)
            found = values.pop("trained")
            if found is not None:
                steps, tokens, losses = found
                found = Trained(steps, tokens, tuple(losses))
            return cls(**values, trained=found)
        except (ValueError, KeyError, TypeError):
            return None


class ServerDevices:
    """The devices of a run.

    Args:
        folder: Where each has its folder, and all together the artifact.
        connection: The server.
        data: The run's.
        login: Whether each enrols with a key of its own.
    """

    def __init__(
        self, folder: Path, connection: ServerConnection, data: OpenData, *, login: bool = False
    ) -> None:
        self._folder = folder
        self._connection = connection
        self._identities = ServerIdentities(connection, len(data.offsets) - 1, login=login)
        self._data = data
        with storage_errors(folder, "make the folder"):
            (folder / "cache").mkdir(parents=True, exist_ok=True)

    def took_part(self, devices: list[int]) -> int:
        """How many of these may ever have asked for a task."""
        return sum(self._path(device).exists() for device in devices)

    def outcome(self, device: int, version: int) -> TaskOutcome | None:
        """What a device found from this version on; None: nothing yet."""
        path = self._path(device) / _OUTCOME_NAME
        with storage_errors(path, "read the file"):
            found = TaskOutcome.from_json(path.read_bytes()) if path.exists() else None
        return found if found is not None and found.version == version else None

    def ended(self, device: int, version: int, attempt: int) -> bool:
        """Whether the server has what a device found in this attempt, or was told why there is nothing.

        Numbers that went bad do so in every attempt; a crash may not.
        """
        found = self.outcome(device, version)
        if found is None or (found.attempt != attempt and found.status != "bad_numbers"):
            return False
        return DeviceState(self._path(device)).current() is None

    def train(self, device: int, version: int) -> TaskOutcome:
        """One task of a device, from its check-in to the acknowledgement of its update.

        Raises:
            UsageError: The server asks for something else than the run's settings.
            ServerRefusedError: It does not take the update.
            NetworkError: It cannot be reached.
        """
        state = DeviceState(self._path(device))
        for _ in range(_MOST_TRIES):
            task = state.current()
            if task is not None and task.offer.version != version:
                state.forget_round()  # of a round that is over
            elif task is not None and task.server != self._connection.url:
                # Started again at another port. Were it another server, it would refuse the task.
                state.moved(task, self._connection.url)
            report = self._device(state, device, version).run()
            if report.finished:
                break
            found = self.outcome(device, version)
            if found is not None and not report.refused:
                return found
        refusals = [str(line.get("reason", line["event"])) for line in state.log()][-1:]
        raise ServerRefusedError(
            f"round {version + 1}: the server does not take the update of device {device} "
            f"({', '.join(refusals)})",
            hint="start the server for this run alone, with a longer --deadline-seconds",
        )

    def _device(self, state: DeviceState, device: int, version: int) -> Device:
        data, path = self._data, state.folder / _OUTCOME_NAME
        settings = data.settings
        rows = data.examples[data.offsets[device] : data.offsets[device + 1]]

        def keep(offer: TaskOffer, found: LocalResult | Exception) -> None:
            outcome = _outcome_of(offer, found)
            if isinstance(found, LocalResult):
                # What cannot be added is refused here, as it is without a server.
                total = ExactSum.empty(len(found.difference), data.scale)
                total.add(found.difference, found.training.mask)
            if outcome is not None:
                write_atomic(path, [outcome.to_json()])

        return Device(
            state,
            self._identities.connection(state.folder),
            lambda artifact: SomeRows(data.train, rows),  # noqa: ARG005
            DeviceSettings(
                plan=settings.plan,
                threads=settings.threads,
                train_heads=int(data.heads[device]) or None,
                tasks=1,
                patience_seconds=PATIENCE_SECONDS,
            ),
            on_task=self._check_offer(version),
            on_trained=keep,
            number=device,
            cache=self._folder / "cache",
        )

    def _check_offer(self, version: int) -> Callable[[TaskOffer], None]:
        settings = self._data.settings
        top_k = settings.upload.codec is CodecName.TOP_K
        upload = ("codec", "top_k_share") if top_k else ("codec",)
        wanted = {
            **settings.local.as_dict(),
            "seed": settings.seed,
            **{name: settings.upload.as_dict()[name] for name in upload},
        }

        def check(offer: TaskOffer) -> None:
            asked = {
                **offer.local.as_dict(),
                "seed": offer.seed,
                "codec": str(offer.upload.codec),
                "top_k_share": offer.upload.top_k_share,
            }
            differences = {
                option_name(name): f"{asked[name]} on the server and {wanted[name]} here"
                for name in wanted
                if asked[name] != wanted[name]
            }
            if differences:
                raise UsageError(
                    f"{', '.join(f'{name} is {text}' for name, text in differences.items())}",
                    where="--server",
                    hint="give `ravan serve` and `ravan simulate` the same options, with a new "
                    "--state and a new --out",
                )
            if offer.version != version:
                raise UsageError(
                    f"the server went on to version {offer.version} without this run, which is at "
                    f"version {version}",
                    where="--server",
                    hint="let no other device take part: serve with a new --state, run in a new --out",
                )

        return check

    def _path(self, device: int) -> Path:
        return self._folder / str(device)


def _outcome_of(offer: TaskOffer, found: LocalResult | Exception) -> TaskOutcome | None:
    """None for what is no outcome of a training."""
    if isinstance(found, LocalResult):
        return TaskOutcome(offer.version, offer.attempt, "merged", Trained.of(found))
    if isinstance(found, NumericsError | WorkerError):
        return TaskOutcome(offer.version, offer.attempt, failed_status(found), None, str(found))
    return None
