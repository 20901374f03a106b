"""The dashboard: a page for operators, made of files that need nothing from elsewhere."""

from ravan_server.dashboard.paths import add_dashboard

__all__ = ["add_dashboard"]
