"""The messages between a device and a server (docs/protocol.md).

Each is a frozen class that refuses what it does not know. Times are seconds from now, never a
date: the clocks of devices are wrong.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ravan_edge.codecs import LARGEST_SHARE, Codec, CodecName, codec_for
from ravan_edge.errors import UsageError
from ravan_edge.training.settings import LocalSettings

__all__ = [
    "PROTOCOL_VERSION",
    "CheckIn",
    "CheckInAnswer",
    "ComeBack",
    "Conditions",
    "DeviceFailure",
    "FailureReason",
    "Receipt",
    "RunState",
    "ServerStatus",
    "TaskOffer",
    "UploadRules",
    "VersionInfo",
    "Versions",
    "WaitReason",
]

PROTOCOL_VERSION = 1
"""Raised when a message changes so that an older side would misread it."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", examples=["0" * 64])]
DeviceId = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_-]{8,64}$",
        description="Chosen by the device once, at random, and kept.",
        examples=["c2f1a9d07b6e4f53"],
    ),
]
TaskId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["Yr4mI0cQkD8sJw3v"])]
PlanName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$", examples=["whole"])]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Positive = Annotated[int, Field(ge=1, lt=1 << 53)]
Seconds = Annotated[float, Field(ge=0, le=1e9, strict=False)]
Moment = Annotated[str, Field(description="UTC, as in ISO 8601.")]


class Message(BaseModel):
    """One JSON object that refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Conditions(Message):
    """How a device is right now; null: it does not know, or does not say."""

    mains_power: bool | None = None
    unmetered: bool | None = None


class CheckIn(Message):
    """A device offers its work."""

    protocol: Annotated[int, Field(ge=1, le=1 << 16, examples=[PROTOCOL_VERSION])]
    device: DeviceId
    plans: Annotated[
        tuple[PlanName, ...],
        Field(
            strict=False, min_length=1, max_length=16, description="That it can run, best first."
        ),
    ]
    artifacts: Annotated[
        tuple[Digest, ...],
        Field(strict=False, max_length=64, description="That it has already."),
    ] = ()
    memory_limit_bytes: Positive | None = None
    heads_to_train: Annotated[
        int | None,
        Field(ge=1, le=65_536, description="The most heads of each layer it can train; null: all."),
    ] = None
    conditions: Conditions = Conditions()


class UploadRules(Message):
    """The form in which the server takes the update."""

    encoding: Literal["plain"] = "plain"
    codec: Annotated[CodecName, Field(strict=False)] = CodecName.FP32
    top_k_share: Annotated[
        float | None,
        Field(gt=0, le=LARGEST_SHARE, description="Of the numbers that codec top-k keeps."),
    ] = None
    most_bytes: Positive

    @model_validator(mode="after")
    def _share_of_top_k(self) -> UploadRules:
        if (self.top_k_share is None) == (self.codec is CodecName.TOP_K):
            raise ValueError("top_k_share belongs to codec top-k, and to no other")
        return self

    @property
    def coder(self) -> Codec | None:
        """The codec that writes; None: fp32."""
        return codec_for(self.codec, self.top_k_share or LARGEST_SHARE)


class TaskOffer(Message):
    """One assignment: train from this version, with these settings, until the deadline."""

    answer: Literal["task"] = "task"
    task: TaskId
    device: Annotated[
        int,
        Field(ge=0, lt=1 << 32, description="The device's number: addresses its random numbers."),
    ]
    round: Positive
    attempt: Positive
    version: Count
    artifact: Digest
    signature: Annotated[
        Digest | None, Field(description="Of signature.json; null: the artifact is not signed.")
    ] = None
    heads: Digest
    heads_bytes: Positive
    plan: PlanName
    settings: dict[str, str | int | float | bool | None]
    heads_to_train: Annotated[int | None, Field(ge=1, le=65_536)] = None
    seed: Annotated[int, Field(ge=0, lt=1 << 64)]
    deadline_seconds: Seconds
    upload: UploadRules

    @field_validator("settings")
    @classmethod
    def _known_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        _local_settings(settings)
        return settings

    @property
    def local(self) -> LocalSettings:
        """The settings of the local round, checked."""
        return _local_settings(self.settings)


def _local_settings(values: dict[str, Any]) -> LocalSettings:
    try:
        return LocalSettings.from_dict(values)
    except UsageError as error:
        raise ValueError(str(error)) from None


class WaitReason(StrEnum):
    """Why there is no task now."""

    ROUND_FULL = "round_full"
    MERGING = "merging"
    TOOK_PART = "took_part"
    CONDITIONS = "conditions"
    BUSY = "busy"
    FINISHED = "finished"


class ComeBack(Message):
    """No task now. Come back once, at a random moment of the window."""

    answer: Literal["come_back"] = "come_back"
    reason: Annotated[WaitReason, Field(strict=False)]
    earliest_seconds: Seconds
    latest_seconds: Seconds


CheckInAnswer = Annotated[TaskOffer | ComeBack, Field(discriminator="answer")]


class Receipt(Message):
    """The update is stored and will survive whatever happens to the server."""

    task: TaskId
    status: Literal["accepted", "already_have_it"]
    sha256: Digest
    bytes: Positive


class FailureReason(StrEnum):
    """Why a device gives a task back."""

    BAD_NUMBERS = "bad_numbers"
    OUT_OF_MEMORY = "out_of_memory"
    CONDITIONS = "conditions"
    DATA = "data"
    STORAGE = "storage"
    CRASHED = "crashed"
    OTHER = "other"


class DeviceFailure(Message):
    """A device gives its task back, so that another one can have the place."""

    reason: Annotated[FailureReason, Field(strict=False)]
    detail: Annotated[str, Field(max_length=500)] = ""


class VersionInfo(Message):
    """One version of the heads."""

    version: Count
    heads: Digest
    bytes: Positive
    updates: Count
    made_at: Moment
    copy_of: Annotated[Count | None, Field(description="The version somebody went back to.")] = None
    available: Annotated[bool, Field(description="Whether its heads can still be downloaded.")]
    scores: dict[str, float | None] | None = None
    heads_kept: Annotated[
        Count | None,
        Field(
            description="Heads that kept their value: fewer devices trained them than are needed."
        ),
    ] = None


class Versions(Message):
    """Versions of the heads, the latest first."""

    versions: Annotated[tuple[VersionInfo, ...], Field(strict=False)]


class RunState(StrEnum):
    """What a server is doing."""

    WAITING = "waiting"
    RUNNING = "running"
    MERGING = "merging"
    FINISHED = "finished"


class ServerStatus(Message):
    """Where the rounds stand."""

    protocol: int = PROTOCOL_VERSION
    artifact: Digest
    heads: Digest
    version: Count
    round: Count
    rounds: Positive
    attempt: Count
    state: Annotated[RunState, Field(strict=False)]
    devices: Annotated[Count, Field(description="That ever had a task.")]
    mode: Annotated[Literal["sync", "async"], Field(description="Whether rounds are synchronous.")]
    goal: Annotated[Positive, Field(description="Updates that make a version.")]
    training: Annotated[Count, Field(description="Tasks that are out.")]
    accepted: Annotated[Count, Field(description="Updates that are stored for the next version.")]
    failed_attempts: Count
    deadline_seconds: Seconds | None
