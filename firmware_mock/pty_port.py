"""Serves a virtual serial chip on a pseudo-terminal, where a reader driver can open it."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import termios
import threading
import tty
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["PtyPort", "SerialChip"]

_SPEEDS = {
    115_200: termios.B115200,
    230_400: termios.B230400,
    460_800: termios.B460800,
    921_600: termios.B921600,
}


class SerialChip(Protocol):
    """A chip behind a serial port."""

    output: Callable[[bytes], None]
    """Where the chip sends what it has to say later than at once."""

    def host(self, data: bytes) -> bytes:
        """Take bytes from the host and return the bytes that go back at once."""


class PtyPort:
    """A serial port ``path`` with ``chip`` behind it, served by one daemon thread until closed.

    Attributes:
        path: Device path for the driver, such as ``/dev/pts/4``.
        left_at_baud: Set to the speed at which a crashed host left the chip: bytes sent at another
            speed are lost until a host finds it. None (default): every speed is understood.
    """

    def __init__(self, chip: SerialChip) -> None:
        self.left_at_baud: int | None = None
        self._chip = chip
        # The slave stays open here: a driver closes and reopens the port to change its speed, and
        # without any open slave the master would report a hang-up in between.
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        self._wake_read, self._wake_write = os.pipe()
        self._closed = False
        self._write_lock = threading.Lock()
        chip.output = self._write
        self._thread = threading.Thread(target=self._serve, name="pty-port", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and close every descriptor. May be called twice."""
        if self._closed:
            return
        self._closed = True
        os.write(self._wake_write, b"\x00")
        self._thread.join()
        with self._write_lock:
            for descriptor in (self._master, self._slave, self._wake_read, self._wake_write):
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _serve(self) -> None:
        waiting = select.poll()
        waiting.register(self._master, select.POLLIN)
        waiting.register(self._wake_read, select.POLLIN)
        while True:
            if self._wake_read in {descriptor for descriptor, _event in waiting.poll()}:
                return
            data = os.read(self._master, 4096)
            if self._understood():
                answer = self._chip.host(data)
                if answer:
                    self._write(answer)

    def _understood(self) -> bool:
        if self.left_at_baud is None:
            return True
        if termios.tcgetattr(self._slave)[5] != _SPEEDS[self.left_at_baud]:
            return False
        self.left_at_baud = None
        return True

    def _write(self, data: bytes) -> None:
        with self._write_lock:
            if not self._closed:
                with contextlib.suppress(OSError):  # the host side is gone
                    os.write(self._master, data)
