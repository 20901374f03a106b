"""Tasks: how a data file becomes rows to train on, and what scores count. One file each."""

from ravan_edge.tasks.registry import TASKS, task_for
from ravan_edge.tasks.task import DataSource, LoadedData, Task, row_classes

__all__ = ["TASKS", "DataSource", "LoadedData", "Task", "row_classes", "task_for"]
