"""The way back: trained heads folded into models that other tools load (docs/merge.md)."""

from ravan_export.merge.merging import TARGETS, Merged, merge_artifact

__all__ = ["TARGETS", "Merged", "merge_artifact"]
