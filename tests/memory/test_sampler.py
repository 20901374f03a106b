from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ravan_edge.errors import StorageError
from ravan_edge.memory import PeakSampler, cgroup_peak_bytes, current_anonymous_bytes

MB = 10**6
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")

# Waits for a line, then holds 40 MB for the length of a breath, and waits again.
CHILD = """
import sys, time
print("ready", flush=True)
for line in sys.stdin:
    block = bytearray(b"x") * 40_000_000
    time.sleep(0.02)
    del block
    print("done", flush=True)
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def breathe(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    process.stdout.readline()


def test_a_short_peak_of_another_process_is_seen(child: subprocess.Popen[str]) -> None:
    with PeakSampler() as sampler:
        sampler.add(child.pid)
        idle = sampler.peak(child.pid)
        breathe(child)
        peak = sampler.peak(child.pid)
        assert idle.above_idle_bytes < 5 * MB
        assert 38 * MB < peak.above_idle_bytes < 60 * MB
        assert sampler.peak_bytes(child.pid) == peak.anonymous_bytes
        sampler.reset(child.pid)
        assert sampler.peak(child.pid).above_idle_bytes < 10 * MB
        assert sampler.peak(child.pid).first_bytes == peak.first_bytes


def test_what_a_process_has_started_counts_with_it(child: subprocess.Popen[str]) -> None:
    with PeakSampler([os.getpid()]) as sampler:
        before = sampler.family_peak_bytes(os.getpid())
        assert before >= sampler.peak_bytes(os.getpid()) + sampler.peak_bytes(child.pid)
        breathe(child)
        grown = sampler.family_peak_bytes(os.getpid()) - before
        assert 38 * MB < grown < 60 * MB
        child.kill()
        child.wait()
        assert sampler.family_peak_bytes(os.getpid()) < before + grown


def test_a_process_that_ended_keeps_its_peak(child: subprocess.Popen[str]) -> None:
    with PeakSampler([child.pid]) as sampler:
        breathe(child)
        child.kill()
        child.wait()
        peak = sampler.peak(child.pid)
        assert not peak.alive
        assert peak.above_idle_bytes > 38 * MB


@linux
def test_mapped_pages_are_reported_apart(tmp_path: Path) -> None:
    file = tmp_path / "base"
    file.write_bytes(b"x" * (30 * MB))
    with PeakSampler([os.getpid()]) as sampler:
        before = sampler.peak(os.getpid())
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        assert sum(mapped[::4096]) > 0
        time.sleep(0.02)
        after = sampler.peak(os.getpid())
        mapped.close()
    assert after.mapped_bytes - before.mapped_bytes > 25 * MB
    assert after.above_idle_bytes < 10 * MB


@linux
def test_it_samples_at_a_kilohertz_and_costs_little() -> None:
    with PeakSampler([os.getpid()]) as sampler:
        assert sampler._process is not None
        pid = sampler._process.pid
        time.sleep(0.5)
        peak = sampler.peak(os.getpid())
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    # A machine full of other work gives it fewer turns: what must hold is that it asked for them.
    assert sampler._interval_seconds <= 1e-3
    assert peak.samples / peak.seconds > 200
    assert used < 0.25


def test_what_cannot_be_watched_is_said() -> None:
    with PeakSampler() as sampler:
        with pytest.raises(StorageError, match="cannot measure"):
            sampler.add(2**22 + 1)
        with pytest.raises(StorageError, match="cannot measure"):
            sampler.peak(os.getpid())
        sampler.add(os.getpid())
        sampler.forget(os.getpid())
        with pytest.raises(StorageError):
            sampler.peak(os.getpid())
    with pytest.raises(RuntimeError, match="with"):
        sampler.peak(os.getpid())


def test_the_first_process_that_is_not_there_leaves_nothing_behind() -> None:
    sampler = PeakSampler([2**22 + 1])
    with pytest.raises(StorageError), sampler:
        pass
    assert sampler._process is None


def test_an_outside_process_that_died_is_said() -> None:
    with PeakSampler([os.getpid()]) as sampler:
        assert sampler._process is not None
        sampler._process.kill()
        sampler._process.wait()
        with pytest.raises(StorageError, match="has ended"):
            sampler.peak(os.getpid())


def test_the_memory_of_this_process() -> None:
    before = current_anonymous_bytes()
    # Blocks above 32 MiB are always fresh pages: smaller ones may come from memory freed earlier.
    block = bytearray(b"x") * (40 * MB)
    assert current_anonymous_bytes() - before > 20 * MB
    del block
    peak = cgroup_peak_bytes()
    assert peak is None or peak > 0
