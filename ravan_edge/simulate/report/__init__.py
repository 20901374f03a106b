"""The page of a run and of a sweep: one HTML file that opens without a network."""

from ravan_edge.simulate.report.write import (
    REPORT_NAME,
    SWEEP_REPORT_NAME,
    write_report,
    write_sweep_report,
)

__all__ = ["REPORT_NAME", "SWEEP_REPORT_NAME", "write_report", "write_sweep_report"]
