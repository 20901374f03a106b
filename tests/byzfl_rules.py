"""byzfl's aggregators, without the rest of it.

``import byzfl`` also loads its data sets and models, and with them torchvision, which changes how
transformers reads images; so it is installed without its dependencies (Makefile), and the package's own
module, which imports all of that, is left out here. The aggregators are byzfl's own files.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

__all__ = ["byzfl_rules"]


def byzfl_rules() -> ModuleType:
    """The module ``byzfl.aggregators.aggregators``."""
    if "byzfl" not in sys.modules:
        spec = importlib.util.find_spec("byzfl")
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("byzfl is missing: make install")
        package = ModuleType("byzfl")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["byzfl"] = package
    return importlib.import_module("byzfl.aggregators.aggregators")
