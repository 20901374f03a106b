"""What devices and servers send each other."""

from ravan_edge.protocol.access import (
    DeviceInfo,
    Devices,
    Enrolled,
    Enrolment,
    Invitation,
    InvitationInfo,
    Invitations,
    InviteDevices,
)
from ravan_edge.protocol.coding import (
    CodedDifference,
    Residuals,
    code_difference,
    rounding_stream,
)
from ravan_edge.protocol.history import AttemptInfo, Attempts, TaskInfo, Tasks
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
from ravan_edge.protocol.residual_file import is_residual, read_residual, write_residual
from ravan_edge.protocol.update_file import (
    decode_update,
    encode_coded_update,
    encode_update,
    read_update,
)
from ravan_edge.protocol.update_info import UpdateInfo
from ravan_edge.protocol.update_reader import Update, UpdateReader, UpdateView
from ravan_edge.protocol.upload_settings import UploadSettings

__all__ = [
    "KINDS",
    "PROTOCOL_VERSION",
    "AttemptInfo",
    "Attempts",
    "CheckIn",
    "CheckInAnswer",
    "CodedDifference",
    "ComeBack",
    "Conditions",
    "DeviceFailure",
    "DeviceInfo",
    "Devices",
    "Enrolled",
    "Enrolment",
    "FailureReason",
    "Invitation",
    "InvitationInfo",
    "Invitations",
    "InviteDevices",
    "Problem",
    "ProblemKind",
    "Reason",
    "Receipt",
    "Refusal",
    "Residuals",
    "RunState",
    "ServerStatus",
    "TaskInfo",
    "TaskOffer",
    "Tasks",
    "Update",
    "UpdateInfo",
    "UpdateReader",
    "UpdateView",
    "UploadRules",
    "UploadSettings",
    "VersionInfo",
    "Versions",
    "WaitReason",
    "code_difference",
    "decode_update",
    "encode_coded_update",
    "encode_update",
    "is_residual",
    "read_residual",
    "read_update",
    "rounding_stream",
    "write_residual",
]
