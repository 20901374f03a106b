"""What devices and servers send each other."""

from ravan_edge.protocol.messages import (
    PROTOCOL_VERSION,
    CheckIn,
    CheckInAnswer,
    ComeBack,
    Conditions,
    DeviceFailure,
    FailureReason,
    Receipt,
    RunState,
    ServerStatus,
    TaskOffer,
    UploadRules,
    WaitReason,
)
from ravan_edge.protocol.problems import KINDS, Problem, ProblemKind, Reason, Refusal
from ravan_edge.protocol.update_file import (
    Update,
    UpdateInfo,
    check_update_header,
    decode_update,
    encode_update,
    read_update,
)

__all__ = [
    "KINDS",
    "PROTOCOL_VERSION",
    "CheckIn",
    "CheckInAnswer",
    "ComeBack",
    "Conditions",
    "DeviceFailure",
    "FailureReason",
    "Problem",
    "ProblemKind",
    "Reason",
    "Receipt",
    "Refusal",
    "RunState",
    "ServerStatus",
    "TaskOffer",
    "Update",
    "UpdateInfo",
    "UploadRules",
    "WaitReason",
    "check_update_header",
    "decode_update",
    "encode_update",
    "read_update",
]
