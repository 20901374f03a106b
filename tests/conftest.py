"""What all tests share: a quiet, offline, two-thread environment and one cache of built things."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

# Before anything imports numpy, torch or transformers: they read these once.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    NO_COLOR="1",
    COLUMNS="120",
)
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "2")

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from tests.services.postgresql import Postgresql, missing_postgresql, postgresql_server
from tests.services.s3 import ACCESS_KEY, SECRET_KEY, S3Server, missing_s3, s3_server

# Shared machines stall: a deadline per example would only measure the neighbours.
settings.register_profile(
    "ravan", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ravan")

ROOT = Path(__file__).resolve().parent.parent

BuildOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """A real PostgreSQL, for all tests of this process: each takes a database of its own."""
    missing = missing_postgresql()
    if missing is not None:
        pytest.skip(missing)
    # Nothing here loses power: what that needs is the server's own business, and slow.
    with postgresql_server("-c", "fsync=off", "-c", "full_page_writes=off") as server:
        yield server


@pytest.fixture(scope="session")
def _s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    missing = missing_s3()
    if missing is not None:
        pytest.skip(missing)
    with s3_server(tmp_path_factory.mktemp("buckets")) as server:
        yield server


@pytest.fixture
def s3(_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A real S3-compatible server, and its keys in the environment; each test takes a bucket of its own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    return _s3_server


@pytest.fixture(scope="session")
def banking77() -> Path:
    """The folder with train.parquet and test.parquet."""
    return ROOT / "data" / "banking77"


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for this test run, the same in all its processes."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def build_once(cache_dir: Path) -> BuildOnce:
    """``build_once(name, build)``: the folder ``name``, built by the first process that asks.

    ``build`` is given a path that does not exist and leaves a folder there. Treat what comes back
    as read-only: other tests share it.
    """

    def build_once(name: str, build: Callable[[Path], None]) -> Path:
        folder = cache_dir / name
        with FileLock(cache_dir / f"{name}.lock"):
            if not folder.exists():
                unfinished = cache_dir / f"{name}.unfinished"
                shutil.rmtree(unfinished, ignore_errors=True)
                build(unfinished)
                unfinished.rename(folder)
        return folder

    return build_once


@pytest.fixture(scope="session", autouse=True)
def _own_user_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's own caches are neither read nor written: each test process has empty ones."""
    folder = tmp_path_factory.getbasetemp() / "user"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            patch.setenv(name, str(folder / name.lower()))
        yield
