"""The device's side of the network: its requests, its folder, its work."""

from ravan_edge.device.address import server_address
from ravan_edge.device.cache import ArtifactCache
from ravan_edge.device.client import Device, DeviceReport
from ravan_edge.device.conditions import ConditionSource, LaptopConditions, TimeWindow
from ravan_edge.device.connection import ServerConnection, refusals_as_errors
from ravan_edge.device.identity import (
    DeviceKey,
    enrolled_key,
    key_for_enrolment,
    remember_enrolment,
)
from ravan_edge.device.settings import DeviceSettings
from ravan_edge.device.state import CurrentTask, DeviceState
from ravan_edge.device.training import TaskTraining
from ravan_edge.device.trust import ArtifactTrust

__all__ = [
    "ArtifactCache",
    "ArtifactTrust",
    "ConditionSource",
    "CurrentTask",
    "Device",
    "DeviceKey",
    "DeviceReport",
    "DeviceSettings",
    "DeviceState",
    "LaptopConditions",
    "ServerConnection",
    "TaskTraining",
    "TimeWindow",
    "enrolled_key",
    "key_for_enrolment",
    "refusals_as_errors",
    "remember_enrolment",
    "server_address",
]
