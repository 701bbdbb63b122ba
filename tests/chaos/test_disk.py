"""The disk of a real Cassandra node, fault by fault."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.faults import disk
from tests.chaos.faults.volume import mounted
from tests.chaos.rehearsal import Rehearsal, rehearsing, statuses
from tests.support import ROOT, eventually

pytestmark = [pytest.mark.cassandra, pytest.mark.slow, pytest.mark.timeout(240)]

FAULTS = {fault.name: fault for fault in disk.FAULTS}
ACKNOWLEDGED_FOR_S = 2.0
SHARED = [fault for fault in disk.FAULTS if not fault.needs.alone]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """One topology, its node on a disk of its own, for all but the control."""
    with rehearsing(SHARED, tmp_path_factory.mktemp("disk")) as running:
        yield running


def test_a_slow_disk_is_waited_for(rehearsal: Rehearsal):
    """Writes take longer, and are acknowledged."""
    during = rehearsal.perform(FAULTS["disk-slow"], 4.0, disk.NODE)
    acknowledged = [sample for sample in during if sample.write and sample.status == 201]
    assert acknowledged
    assert max(sample.took_s for sample in acknowledged) > disk.SLOW_S / 2


def test_a_disk_that_stands_still_acknowledges_nothing(rehearsal: Rehearsal):
    """What was sent is unknown, what comes is refused; when it goes on, so does the service."""
    during = rehearsal.perform(FAULTS["disk-still"], 4.5, disk.NODE)
    went_on = rehearsal.events[-1].healing_unix_s
    answered = [sample for sample in during if sample.write and sample.at_unix_s + sample.took_s < went_on]
    assert statuses(answered, write=True) <= {503, 504}
    assert 503 in statuses(answered, write=True)


def test_a_full_disk_refuses_and_is_back_with_the_space(rehearsal: Rehearsal):
    """The node ends, and ends again when it is started; no write is acknowledged; with space it starts on the same data."""
    during = rehearsal.perform(FAULTS["disk-full"], 5.0, disk.NODE)
    assert statuses(during, write=True) == {503}
    assert rehearsal.events[-1].seen["died"]


def test_a_power_cut_loses_nothing_that_was_acknowledged(rehearsal: Rehearsal):
    """And nothing of all that was acknowledged before it, nor anything after."""
    rehearsal.perform(FAULTS["disk-power-cut"], 0.0, disk.NODE)
    verdict = rehearsal.end()
    assert verdict.ok, verdict
    assert verdict.counts is not None
    assert verdict.counts.acknowledged > 1_000


def test_a_power_cut_shows_what_was_not_synced(tmp_path: Path):
    """The control: with the commit log synced every ten seconds, what was acknowledged before a cut is lost."""
    control = FAULTS["disk-power-cut-periodic"]
    with rehearsing([control], tmp_path) as rehearsal:
        time.sleep(ACKNOWLEDGED_FOR_S)
        rehearsal.perform(control, 0.0, disk.NODE)
        counts = rehearsal.end().counts
    assert counts is not None
    assert counts.bad == counts.lost > 0


def test_a_volume_loses_what_was_not_synced_and_nothing_else(tmp_path: Path):
    """Of two files that were written, the one that was synced is there after the cut, whole; the other is not."""
    with mounted(tmp_path / "image", tmp_path / "mounted", 32 << 20) as volume:
        synced, other = volume.directory / "synced", volume.directory / "other"
        synced.write_bytes(b"s" * 100_000)
        disk._sync(synced)
        other.write_bytes(b"o" * 100_000)
        volume.cut()
        with pytest.raises(OSError, match="Input/output error"):
            synced.read_bytes()
        volume.unmount()
        volume.mount()
        assert synced.read_bytes() == b"s" * 100_000
        assert not other.exists()
    assert not (tmp_path / "image").exists()


KILLED = """
import os, pathlib, signal, sys
from tests.chaos.faults.volume import mounted
place = pathlib.Path(sys.argv[1])
with mounted(place / "image", place / "mounted", 8 << 20) as volume:
    volume.freeze()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_volume_goes_with_the_process_that_mounted_it(tmp_path: Path):
    """Also one that stands still, when the run is killed."""
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    eventually(lambda: not os.path.ismount(tmp_path / "mounted"))


def test_what_is_not_mounted_is_left_alone(tmp_path: Path):
    """The directory of a volume that is gone is in the machine's own file system, which must not stop."""
    with mounted(tmp_path / "image", tmp_path / "mounted", 8 << 20) as volume:
        volume.unmount()
        with pytest.raises(OSError, match="is not mounted"):
            volume.cut()
        volume.freeze()
        (tmp_path / "mounted" / "file").write_text("goes on")
        (tmp_path / "mounted" / "file").unlink()
        volume.mount()


def test_a_full_volume_takes_nothing_more_until_it_is_emptied(tmp_path: Path):
    """It is full to a few kilobytes, at once."""
    with mounted(tmp_path / "image", tmp_path / "mounted", 32 << 20) as volume:
        volume.fill()
        with pytest.raises(OSError, match="No space left"):
            (volume.directory / "more").write_bytes(b"m" * 200_000)
        (volume.directory / "more").unlink()
        volume.empty()
        (volume.directory / "more").write_bytes(b"m" * 200_000)
