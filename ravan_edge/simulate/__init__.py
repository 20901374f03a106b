"""Many devices in one machine: rounds on worker processes, a virtual clock, a run that survives kills."""

from ravan_edge.simulate.engine import default_workers, simulate
from ravan_edge.simulate.events import OnEvent, Resumed, RoundDone, Stage
from ravan_edge.simulate.request import SimulationRequest
from ravan_edge.simulate.run_folder import read_summary
from ravan_edge.simulate.settings import SimulationSettings
from ravan_edge.simulate.summary import WALL_FIELDS
from ravan_edge.simulate.sweep import OnSweepEvent, SweepRun, sweep

__all__ = [
    "WALL_FIELDS",
    "OnEvent",
    "OnSweepEvent",
    "Resumed",
    "RoundDone",
    "SimulationRequest",
    "SimulationSettings",
    "Stage",
    "SweepRun",
    "default_workers",
    "read_summary",
    "simulate",
    "sweep",
]
