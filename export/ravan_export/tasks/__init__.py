"""Tasks: how a loss sum, its count and the metrics are formed from a model's output."""

from ravan_export.tasks.text_classification import TextClassification

__all__ = ["TextClassification"]
