"""Replacing a file so that a crash leaves the old one or the new one, never half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from dkey.errors import FileFormatError

__all__ = ["read_text", "replace_file", "sync_directory"]

MAX_SIZE: Final = 16 << 20


def read_text(path: Path) -> str:
    """Return the content of a text file of at most 16 MiB.

    Raises:
        FileFormatError: It cannot be read, is too large, or is not UTF-8.
    """
    try:
        if path.stat().st_size > MAX_SIZE:
            raise FileFormatError(f"{path} is over {MAX_SIZE} bytes", clause="specs/formats.md §1")
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        reason = exc.strerror or "cannot be read"
        raise FileFormatError(
            f"{path}: {reason}", hint="check the path and its access rights"
        ) from exc
    except UnicodeDecodeError as exc:
        raise FileFormatError(f"{path}: not a text file", clause="specs/formats.md §1") from exc


def replace_file(path: Path, text: str, *, mode: int | None = None) -> None:
    """Replace ``path`` by ``text`` atomically and durably.

    Args:
        path: The file; a symbolic link keeps pointing to its target.
        text: New content.
        mode: Access rights; None keeps those of the old file, or 0600 for a new one.

    Raises:
        FileFormatError: It cannot be written; the old file is as it was.
    """
    try:
        _replace(path.resolve(), text, mode)
    except OSError as exc:
        reason = exc.strerror or "cannot be written"
        raise FileFormatError(
            f"{path}: {reason}", hint="check the folder, its access rights and the free space"
        ) from exc


def _replace(target: Path, text: str, mode: int | None) -> None:
    if mode is None:
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
