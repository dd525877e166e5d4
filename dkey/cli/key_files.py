"""Files, links and QR codes in which keys go from hand to hand (specs/lifecycle.md §6.1)."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from dkey.errors import LocalFault

__all__ = ["WHEN", "draw_qr", "read_small", "write_private"]

_MAX: Final = 64 * 1024
_SPAN: Final = re.compile(r"\+([0-9]{1,5})(m|h|d)")
_UNIT_S: Final = {"m": 60, "h": 3600, "d": 86_400}


def write_private(path: Path, content: bytes) -> None:
    """Write a file of mode 0600, whole or not at all.

    Raises:
        LocalFault: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as exc:
        draft.unlink(missing_ok=True)
        raise LocalFault(
            f"{path} cannot be written: {exc.strerror}", hint="choose another file"
        ) from exc


def read_small(path: Path) -> bytes:
    """Return the content of a file of at most 64 KiB.

    Raises:
        LocalFault: It cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX + 1)
    except OSError as exc:
        raise LocalFault(f"{path} cannot be read: {exc.strerror}", hint="check the path") from exc
    if len(content) > _MAX:
        raise LocalFault(f"{path} is too large for a message about a key")
    return content


def draw_qr(text: str) -> None:
    """Draw a QR code on the terminal, dark on light."""
    import segno  # noqa: PLC0415 - only who draws one needs it

    rows = [[0, *row, 0] for row in segno.make(text, micro=False).matrix_iter(border=1)]
    if len(rows) % 2:
        rows.append([0] * len(rows[0]))
    marks = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        pairs = zip(upper, lower, strict=True)
        click.echo("".join(marks[bool(one), bool(other)] for one, other in pairs))


class _When(click.ParamType[int]):
    """A time: +90m, +12h, +30d, or 2026-12-31T18:00 (UTC)."""

    name = "time"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return seconds since 1970."""
        if isinstance(value, int):
            return value
        if span := _SPAN.fullmatch(value):
            return int(time.time()) + int(span[1]) * _UNIT_S[span[2]]
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            self.fail("not a time; give +12h, +30d or 2026-12-31T18:00", param, ctx)
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


WHEN: Final = _When()
