"""Exports pretrained models as training artifacts. Needs torch; devices do not.

Import what you need from its files: ``from ravan_export.export import export_artifact``.
"""

import logging

# Where torchao is installed (ExecuTorch brings it), transformers imports it, and torch then warns about
# how it registers its own types: nothing a user of `ravan` could act on.
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
