"""The journal of one worker: the case at hand, in a file before the layer's code sees it.

One file that is written in place, with a checksum in front: what a killed process leaves behind is
either a whole record or none.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from pathlib import Path

from gradverify import files
from gradverify.core.errors import CaseFileError

_HEADER = struct.Struct("<4sII")  # mark, length, checksum
_MARK = b"gvj1"
SUFFIX = ".case"
_HIGH = 500  # descriptors below are within reach of code that closes "all" of them


class JournalError(OSError):
    """The journal cannot be written, as where the disk is full."""


class Journal:
    """Writes records over one another; survives the death of the process, not of the machine."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = out_of_reach(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))

    def write(self, record: bytes) -> None:
        """Replace the record at hand; raises JournalError if the file cannot be written."""
        self._put(_HEADER.pack(_MARK, len(record), zlib.crc32(record)) + record)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def clear(self) -> None:
        """No case is at hand."""
        self._put(bytes(_HEADER.size))

    def _put(self, data: bytes) -> None:
        try:
            written = os.pwrite(self._file, data, 0)
        except OSError as error:
            raise JournalError(error.errno, error.strerror) from None
        if written < len(data):
            raise JournalError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read(path: str | os.PathLike[str]) -> bytes | None:
    """The record in a journal; None if there is none, or half of one."""
    try:
        data = files.read(Path(path))
    except CaseFileError:
        return None
    if len(data) < _HEADER.size:
        return None
    mark, length, checksum = _HEADER.unpack_from(data)
    record = data[_HEADER.size : _HEADER.size + length]
    return record if mark == _MARK and len(record) == length and zlib.crc32(record) == checksum else None


def out_of_reach(descriptor: int) -> int:
    """The descriptor under a high number, closed in programs that are started from here."""
    try:
        import fcntl

        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    except (ImportError, OSError, ValueError):  # fewer are allowed
        return descriptor
    os.close(descriptor)
    return high
