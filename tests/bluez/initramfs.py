"""Write initramfs archives: cpio in the "newc" format of the kernel's early-userspace document.

The kernel unpacks any number of them one after the other, each starting on a multiple of 4 bytes,
so that a guest is a base image followed by what changes from run to run.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, BinaryIO, Self

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Archive"]

_HEADER = "070701" + "{:08X}" * 13
_BLOCK = 512


class Archive:
    """One archive under construction; use as a context manager."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._inode = 0
        self._made: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failed: object) -> None:
        self._entry("TRAILER!!!", 0, b"")
        self._out.write(bytes(-self._out.tell() % _BLOCK))

    def folder(self, path: str, mode: int = 0o755) -> None:
        """Add a folder and those above it; one that is there already is left alone."""
        parent = path.rpartition("/")[0]
        if parent:
            self.folder(parent)
        if path not in self._made:
            self._made.add(path)
            self._entry(path, stat.S_IFDIR | mode, b"")

    def file(self, path: str, data: bytes, mode: int = 0o644, mtime: int = 0) -> None:
        """Add a regular file, owned by root."""
        self.folder(path.rpartition("/")[0])
        self._entry(path, stat.S_IFREG | mode, data, mtime=mtime)

    def tree(self, source: Path, path: str, *, wanted: Callable[[Path], bool]) -> None:
        """Add all regular files under ``source``, those that ``wanted`` takes, below ``path``."""
        for each in sorted(source.rglob("*")):
            if each.is_file() and wanted(each):
                inside = f"{path}/{each.relative_to(source).as_posix()}"
                self.file(inside, each.read_bytes(), each.stat().st_mode & 0o755)

    def tar(self, source: tarfile.TarFile, wanted: Callable[[str], bool]) -> None:
        """Add the members of a tar whose path ``wanted`` takes, with owners, modes and times."""
        for each in source:
            path = each.name.removeprefix("./").strip("/")
            if path in {"", "."} or not wanted(path):
                continue
            owner = {"uid": each.uid, "gid": each.gid, "mtime": int(each.mtime)}
            if each.isdir():
                self._made.add(path)
                self._entry(path, stat.S_IFDIR | each.mode, b"", **owner)
            elif each.issym():
                self._entry(path, stat.S_IFLNK | 0o777, each.linkname.encode(), **owner)
            elif (data := source.extractfile(each)) is not None:  # a hard link becomes a copy
                self._entry(path, stat.S_IFREG | each.mode, data.read(), **owner)

    def _entry(
        self, path: str, mode: int, data: bytes, *, uid: int = 0, gid: int = 0, mtime: int = 0
    ) -> None:
        self._inode += 1
        name = path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        numbers = (self._inode, mode, uid, gid, links, mtime, len(data), 0, 0, 0, 0, len(name), 0)
        head = _HEADER.format(*numbers).encode() + name
        self._out.write(head + bytes(-len(head) % 4))
        self._out.write(data + bytes(-len(data) % 4))
