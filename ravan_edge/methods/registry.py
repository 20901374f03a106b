"""The method a manifest asks for."""

from __future__ import annotations

from ravan_edge.artifact.manifest import Manifest
from ravan_edge.methods.layout import ParameterLayout
from ravan_edge.methods.method import Method
from ravan_edge.methods.plain import Plain
from ravan_edge.methods.ravan import Ravan

__all__ = ["method_for"]


def method_for(manifest: Manifest) -> Method:
    """The method of an artifact, on its tensor table."""
    layout = ParameterLayout.from_table(manifest.tensors)
    return Ravan(layout) if manifest.method.name == "ravan" else Plain(layout)
