"""Tasks: how a data file becomes rows to train on, and what scores count. One file each."""

from ravan_edge.tasks.length import (
    LENGTH_HELP,
    USUAL_LENGTH,
    fixed_length,
    length_notice,
    text_length,
)
from ravan_edge.tasks.registry import TASKS, task_for
from ravan_edge.tasks.task import DataSource, LoadedData, Task, row_classes

__all__ = [
    "LENGTH_HELP",
    "TASKS",
    "USUAL_LENGTH",
    "DataSource",
    "LoadedData",
    "Task",
    "fixed_length",
    "length_notice",
    "row_classes",
    "task_for",
    "text_length",
]
