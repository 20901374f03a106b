"""Every reason for which a server refuses a request, in one table (docs/protocol.md, section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["KINDS", "Problem", "ProblemKind", "Reason", "Refusal"]


class Reason(StrEnum):
    """What is wrong, for programs."""

    PROTOCOL = "protocol"
    BAD_REQUEST = "bad_request"
    BAD_MESSAGE = "bad_message"
    WRONG_SITE = "wrong_site"
    NO_SUCH_PATH = "no_such_path"
    NO_SUCH_BLOB = "no_such_blob"
    NO_SUCH_RANGE = "no_such_range"
    NO_SUCH_TASK = "no_such_task"
    NO_SUCH_VERSION = "no_such_version"
    NO_SUCH_DEVICE = "no_such_device"
    NO_COMMON_PLAN = "no_common_plan"
    LOGIN_NEEDED = "login_needed"
    BAD_SIGNATURE = "bad_signature"
    WRONG_TIME = "wrong_time"
    NOT_ENROLLED = "not_enrolled"
    REVOKED = "revoked"
    BAD_TOKEN = "bad_token"  # noqa: S105  (a reason)
    TOO_MANY = "too_many"
    ROUND_OVER = "round_over"
    TASK_GIVEN_BACK = "task_given_back"
    DIFFERENT_UPDATE = "different_update"
    BAD_UPDATE = "bad_update"
    BAD_NUMBERS = "bad_numbers"
    WRONG_TASK = "wrong_task"
    WRONG_CODEC = "wrong_codec"
    TOO_LARGE = "too_large"
    HEAD_TOO_LARGE = "head_too_large"
    LENGTH_REQUIRED = "length_required"
    ENCODED = "encoded"
    CUT_OFF = "cut_off"
    TOO_SLOW = "too_slow"
    BUSY = "busy"
    STORAGE = "storage"
    BUG = "bug"


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """How a reason travels.

    Attributes:
        status: The HTTP status.
        title: What it means, for a person.
        permanent: Whether the same request will be refused for ever.
    """

    status: int
    title: str
    permanent: bool = True


KINDS: dict[Reason, ProblemKind] = {
    Reason.PROTOCOL: ProblemKind(426, "another version of the protocol"),
    Reason.BAD_REQUEST: ProblemKind(400, "not HTTP as this server reads it"),
    Reason.BAD_MESSAGE: ProblemKind(422, "the message is not as the protocol says"),
    Reason.WRONG_SITE: ProblemKind(403, "another site, or another name of this machine"),
    Reason.NO_SUCH_PATH: ProblemKind(404, "there is nothing here"),
    Reason.NO_SUCH_BLOB: ProblemKind(404, "no such blob"),
    Reason.NO_SUCH_RANGE: ProblemKind(416, "the blob ends before this range"),
    Reason.NO_SUCH_TASK: ProblemKind(404, "no such task"),
    Reason.NO_SUCH_VERSION: ProblemKind(404, "no such version, or its heads are gone"),
    Reason.NO_SUCH_DEVICE: ProblemKind(404, "no such device"),
    Reason.NO_COMMON_PLAN: ProblemKind(409, "the artifact has no plan that this device can run"),
    Reason.LOGIN_NEEDED: ProblemKind(401, "the request does not say who asks"),
    Reason.BAD_SIGNATURE: ProblemKind(401, "the signature is not the device's"),
    Reason.WRONG_TIME: ProblemKind(401, "signed at another time", permanent=False),
    Reason.NOT_ENROLLED: ProblemKind(401, "no device with this key is enrolled"),
    Reason.REVOKED: ProblemKind(403, "the device is shut out"),
    Reason.BAD_TOKEN: ProblemKind(403, "the token is not one, or not any more"),
    Reason.TOO_MANY: ProblemKind(429, "too many requests", permanent=False),
    Reason.ROUND_OVER: ProblemKind(410, "the round went on without this update"),
    Reason.TASK_GIVEN_BACK: ProblemKind(410, "the device gave this task back"),
    Reason.DIFFERENT_UPDATE: ProblemKind(409, "another update is stored for this task"),
    Reason.BAD_UPDATE: ProblemKind(422, "not an update of this artifact"),
    Reason.BAD_NUMBERS: ProblemKind(422, "numbers that cannot be merged"),
    Reason.WRONG_TASK: ProblemKind(422, "the update was made for another task or version"),
    Reason.WRONG_CODEC: ProblemKind(422, "the task asks for another codec"),
    Reason.TOO_LARGE: ProblemKind(413, "too many bytes"),
    Reason.HEAD_TOO_LARGE: ProblemKind(431, "the head of the request is too large"),
    Reason.LENGTH_REQUIRED: ProblemKind(411, "the request does not say how long it is"),
    Reason.ENCODED: ProblemKind(415, "a body must be sent as it is"),
    Reason.CUT_OFF: ProblemKind(400, "the body ended too soon", permanent=False),
    Reason.TOO_SLOW: ProblemKind(408, "the request came too slowly", permanent=False),
    Reason.BUSY: ProblemKind(503, "too much at once", permanent=False),
    Reason.STORAGE: ProblemKind(503, "the server cannot write to its disk", permanent=False),
    Reason.BUG: ProblemKind(500, "a bug of the server", permanent=False),
}


class Problem(BaseModel):
    """The body of every refusal: problem details as in RFC 9457, with three members of ours."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    type: Annotated[str, Field(examples=["urn:ravan:problem:round_over"])]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: Annotated[str, Field(max_length=2000)]
    reason: Annotated[Reason, Field(strict=False)]
    permanent: Annotated[bool, Field(description="Whether trying again is useless.")]
    retry_after_seconds: Annotated[float | None, Field(ge=0, le=1e9, strict=False)] = None


class Refusal(Exception):  # noqa: N818  (an answer, not an error of ours)
    """A request is refused.

    Args:
        reason: Why.
        detail: What was found, what was expected, what to do.
        retry_after_seconds: When another try may help; for reasons that are not permanent.
    """

    def __init__(
        self, reason: Reason, detail: str, *, retry_after_seconds: float | None = None
    ) -> None:
        self.reason = reason
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds
        super().__init__(reason, detail, retry_after_seconds)

    def __str__(self) -> str:
        return self.detail

    @property
    def problem(self) -> Problem:
        """As it is sent."""
        kind = KINDS[self.reason]
        return Problem(
            type=f"urn:ravan:problem:{self.reason}",
            title=kind.title,
            status=kind.status,
            detail=self.detail[:2000],
            reason=self.reason,
            permanent=kind.permanent,
            retry_after_seconds=self.retry_after_seconds,
        )
