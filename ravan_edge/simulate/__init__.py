"""Many devices in one machine: rounds on worker processes, a virtual clock, a run that survives kills."""

from ravan_edge.simulate.engine import default_workers, simulate
from ravan_edge.simulate.events import OnEvent, Resumed, RoundDone, Stage
from ravan_edge.simulate.request import SimulationRequest
from ravan_edge.simulate.run_folder import read_summary
from ravan_edge.simulate.settings import SimulationSettings
from ravan_edge.simulate.summary import WALL_FIELDS

__all__ = [
    "WALL_FIELDS",
    "OnEvent",
    "Resumed",
    "RoundDone",
    "SimulationRequest",
    "SimulationSettings",
    "Stage",
    "default_workers",
    "read_summary",
    "simulate",
]
