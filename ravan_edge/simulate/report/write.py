"""Writing the pages. Nothing of the extra is imported before a page is made."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ravan_edge.errors import MissingExtraError
from ravan_edge.files import write_atomic

__all__ = ["REPORT_NAME", "SWEEP_REPORT_NAME", "write_report", "write_sweep_report"]

REPORT_NAME = "report.html"
SWEEP_REPORT_NAME = "sweep.html"


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` of a run into its folder. Equal runs give equal bytes.

    Returns:
        Where it is.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed; the run itself is untouched.
        UsageError: ``run_folder`` is not the folder of a run.
        StorageError: A file is damaged, or the disk failed.
    """
    _require_extra()
    from ravan_edge.simulate.report.page import render_run
    from ravan_edge.simulate.report.reading import read_run

    page = render_run(read_run(run_folder))
    return _write(run_folder / REPORT_NAME, page)


def write_sweep_report(folder: Path) -> Path:
    """Write ``sweep.html`` beside the ``sweep.json`` of a sweep.

    Returns:
        Where it is.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed; the sweep itself is untouched.
        UsageError: ``folder`` is not the folder of a sweep.
        StorageError: A file is damaged, or the disk failed.
    """
    _require_extra()
    from ravan_edge.simulate.report.sweep import read_sweep, render_sweep

    page = render_sweep(read_sweep(folder))
    return _write(folder / SWEEP_REPORT_NAME, page)


def _write(path: Path, page: str) -> Path:
    # A file name may hold bytes that are no Unicode; on the page they become "?".
    write_atomic(path, [page.encode("utf-8", "replace")])
    return path


def _require_extra() -> None:
    for name in ("jinja2", "matplotlib"):
        try:
            import_module(name)
        except ImportError as error:
            raise MissingExtraError(
                f"a report needs {name}, which is not installed; the run itself is complete",
                hint="type pip install 'ravan-edge[simulate]', then ravan report RUN",
            ) from error
