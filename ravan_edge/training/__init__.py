"""Training on one device: optimisers, the local round, its checkpoints, evaluation."""

from ravan_edge.training.evaluate import (
    ClassCounts,
    Scores,
    class_counts,
    evaluate,
    predict,
    predict_tokens,
)
from ravan_edge.training.local_round import LocalResult, initial_state, local_round, run_batch
from ravan_edge.training.optimisers import Adam, Optimiser, OptimiserName, OptimiserState, Sgd
from ravan_edge.training.options import OptionInfo, check_options, option, option_infos, option_name
from ravan_edge.training.settings import LocalSettings
from ravan_edge.training.state import RoundState, load_state, save_state

__all__ = [
    "Adam",
    "ClassCounts",
    "LocalResult",
    "LocalSettings",
    "Optimiser",
    "OptimiserName",
    "OptimiserState",
    "OptionInfo",
    "RoundState",
    "Scores",
    "Sgd",
    "check_options",
    "class_counts",
    "evaluate",
    "initial_state",
    "load_state",
    "local_round",
    "option",
    "option_infos",
    "option_name",
    "predict",
    "predict_tokens",
    "run_batch",
    "save_state",
]
