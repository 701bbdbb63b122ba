"""A disk of its own: a file with ext4 in it, mounted, that can be full, stand still, or lose its power.

All of it is the kernel's own: ``fallocate``, FIFREEZE, and EXT4_IOC_SHUTDOWN, by which the file system stops in the state that
a power cut leaves: what was not synced is gone, the journal is replayed at the next mount. ``tests/chaos/README.md`` says how
that compares with LazyFS.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FREEZE = 0xC0045877
_THAW = 0xC0045878
_SHUTDOWN = 0x8004587D
_WITHOUT_ITS_LOG = 2
PROGRAMS = ("mkfs.ext4", "mount", "umount", "fsfreeze")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
TIMEOUT_S = 60.0
BALLAST = "ballast"
PROBE_BYTES = 8 << 20
BLOCK_BYTES = 4096
UNMOUNT_WHEN_ORPHANED = 'read -r _; if mountpoint -q "$1"; then fsfreeze -u "$1"; umount -l "$1"; fi'


class Volume:
    """The file system that is mounted on ``directory``. Needs root."""

    def __init__(self, image: Path, directory: Path) -> None:
        self.image = image
        self.directory = directory

    def fill(self) -> None:
        """Take all of its space, also what has become free since the last time. Nothing is written for it."""
        ballast = os.open(self.directory / BALLAST, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            space = os.fstatvfs(ballast)
            end = os.fstat(ballast).st_size
            step = space.f_bavail * space.f_frsize // BLOCK_BYTES * BLOCK_BYTES
            while step >= BLOCK_BYTES:
                try:
                    os.posix_fallocate(ballast, end, step)
                    end += step
                except OSError:
                    step = step // 2 // BLOCK_BYTES * BLOCK_BYTES
        finally:
            os.close(ballast)

    def empty(self) -> None:
        """Give the space back."""
        (self.directory / BALLAST).unlink(missing_ok=True)

    def freeze(self) -> None:
        """From now on every write and every fsync waits. It may be asked for twice."""
        with suppress(OSError):
            self._ioctl(_FREEZE)

    def thaw(self) -> None:
        """What waited goes on."""
        with suppress(OSError):
            self._ioctl(_THAW)

    def cut(self) -> None:
        """The power is gone: what was not synced is lost, and every write from now on fails. Only a mount anew helps."""
        self._ioctl(_SHUTDOWN, struct.pack("I", _WITHOUT_ITS_LOG))

    def mount(self) -> None:
        """Mount it, after the file system has repaired itself from its journal."""
        _run("mount", "-o", "loop", str(self.image), str(self.directory))

    def unmount(self) -> None:
        """Unmount it; nobody may have a file of it open."""
        _run("umount", str(self.directory))

    def _ioctl(self, request: int, argument: bytes | int = 0) -> None:
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # What stands still or loses its power otherwise is the file system that this directory is in.
            if os.fstat(directory).st_dev == self.directory.parent.stat().st_dev:
                raise OSError(f"{self.directory} is not mounted")
            fcntl.ioctl(directory, request, argument)
        finally:
            os.close(directory)


@contextmanager
def mounted(image: Path, directory: Path, size_bytes: int) -> Iterator[Volume]:
    """A new volume; ``image`` takes the room of what is written to it. Unmounted at the end, also when this process is killed."""
    directory.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
    volume = Volume(image, directory)
    volume.mount()
    guard = subprocess.Popen(
        ["sh", "-c", UNMOUNT_WHEN_ORPHANED, "sh", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PATH": PATH},
        start_new_session=True,
    )
    try:
        (directory / "lost+found").rmdir()
        yield volume
    finally:
        volume.thaw()
        with suppress(subprocess.CalledProcessError):
            volume.unmount()
        guard.communicate(timeout=TIMEOUT_S)
        image.unlink()


def missing() -> str:
    """Why there can be none here, empty when there can."""
    with tempfile.TemporaryDirectory(prefix="busyapi-volume-") as place:
        try:
            with mounted(Path(place) / "image", Path(place) / "mounted", PROBE_BYTES):
                return ""
        except subprocess.CalledProcessError as error:
            return f"no volume can be mounted: {error.stderr.decode(errors='replace').strip()}"
        except OSError as error:
            return f"no volume can be mounted: {error}"


def _run(*words: str) -> None:
    environment = {**os.environ, "PATH": PATH}
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, env=environment)
