"""What a model costs before it is exported: bytes that travel, and the memory of a step."""

from ravan_export.costs.of_model import Estimate, estimate

__all__ = ["Estimate", "estimate"]
