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
    VersionInfo,
    Versions,
    WaitReason,
)
from ravan_edge.protocol.problems import KINDS, Problem, ProblemKind, Reason, Refusal
from ravan_edge.protocol.update_file import decode_update, encode_update, read_update
from ravan_edge.protocol.update_info import UpdateInfo
from ravan_edge.protocol.update_reader import Update, UpdateReader, UpdateView

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
    "UpdateReader",
    "UpdateView",
    "UploadRules",
    "VersionInfo",
    "Versions",
    "WaitReason",
    "decode_update",
    "encode_update",
    "read_update",
]
