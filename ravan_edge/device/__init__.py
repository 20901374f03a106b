"""The device's side of the network: its requests, its folder, its work."""

from ravan_edge.device.cache import ArtifactCache
from ravan_edge.device.client import Device, DeviceReport
from ravan_edge.device.conditions import ConditionSource, LaptopConditions, TimeWindow
from ravan_edge.device.connection import ServerConnection, refusals_as_errors
from ravan_edge.device.settings import DeviceSettings
from ravan_edge.device.state import CurrentTask, DeviceState
from ravan_edge.device.training import TaskTraining

__all__ = [
    "ArtifactCache",
    "ConditionSource",
    "CurrentTask",
    "Device",
    "DeviceReport",
    "DeviceSettings",
    "DeviceState",
    "LaptopConditions",
    "ServerConnection",
    "TaskTraining",
    "TimeWindow",
    "refusals_as_errors",
]
