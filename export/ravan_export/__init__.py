"""Exports pretrained models as training artifacts. Needs torch; devices do not.

Import what you need from its files: ``from ravan_export.export import export_artifact``.
"""
