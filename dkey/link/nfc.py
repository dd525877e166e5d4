"""NFC readers through nfcpy: the reader side of ``nfc:`` links.

nfcpy blocks and its frontends are not re-entrant, so one daemon thread for each reader owns it;
coroutines hand it whole jobs (a sense, one APDU, a whole transaction) and await one future. From
nfcpy we use opening, sensing and the exchange of frames; ISO-DEP is :mod:`dkey.link.isodep`.
nfcpy's loggers show every frame at level DEBUG, secrets included: keep them above it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from dkey.errors import LinkError, LinkReason
from dkey.link.base import Cap, FrameTap
from dkey.link.nfc_field import NfcField
from dkey.link.nfc_readers import ReaderFinding, find_readers
from dkey.link.reader_thread import Job, ReaderThread, closed

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from dkey.link.nfc_field import Activation

__all__ = ["NfcInitiator", "NfcLink", "ReaderFinding", "find_readers"]

T = TypeVar("T")

_CLOSE_S = 4.5
_MTU = 65_544


class NfcInitiator:
    """The reader ``nfc:path`` in the reader role: senses Type 4A devices.

    The reader is opened at the first :meth:`sense`, and again after it was unplugged.
    """

    def __init__(
        self, path: str, *, tap: FrameTap | None = None, polling_frame: bytes | None = None
    ) -> None:
        """Name the reader; nothing is opened yet.

        Args:
            path: Link string without ``nfc:``; see :func:`~dkey.link.nfc_readers.open_reader`.
            tap: Receives frames and field changes, from the reader's thread. The frames of the
                activation (REQA to SAK) run inside the reader's chip; they are reported as they
                must have been, from what the chip says it found. The field is reported once it
                holds a device: while polling it is pulsed.
            polling_frame: Sent, with CRC_A, between two requests of each poll, for devices that
                wait for such a frame. PN53x chips only.
        """
        self._field = NfcField(path, tap, polling_frame)
        self._worker: ReaderThread | None = None
        self._closed = False

    async def sense(self, *, timeout_s: float) -> NfcLink | None:
        """Return a link to the first Type 4A device within ``timeout_s``, or None.

        Ends the link that an earlier call returned.

        Raises:
            LinkError: ABSENT, BUSY, DENIED, UNSUPPORTED when the reader cannot be used, LOST when
                it was unplugged, CLOSED after (or during) :meth:`aclose`.
        """
        if self._closed:
            raise closed()
        if self._worker is None:
            self._worker = ReaderThread()
        worker = self._worker
        job = worker.submit(lambda stop: self._field.sense(timeout_s, stop))
        try:
            device = await job.result()
        except asyncio.CancelledError:
            with contextlib.suppress(LinkError):  # closed meanwhile: the field is off
                worker.submit(lambda _stop: self._field.off())
            raise
        if device is None:
            return None
        return NfcLink(worker, self._field, device)

    async def aclose(self) -> None:
        """Close the reader. May be called twice; ends pending waits with reason CLOSED."""
        self._closed = True
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.finish(self._field.close)


class NfcLink:
    """One device in the field: whole APDUs in lock-step, over ISO-DEP.

    Attributes:
        mtu: Largest command APDU, bytes.
        caps: APDU and NFC.
    """

    mtu = _MTU
    caps = frozenset({Cap.APDU, Cap.NFC})

    def __init__(self, worker: ReaderThread, field: NfcField, device: Activation) -> None:
        self._worker = worker
        self._field = field
        self._device = device
        self._pending: Job[bytes] | None = None
        self._jobs: list[Job[Any]] = []
        self._closed = False

    async def send(self, data: bytes) -> None:
        """Start the exchange of one command APDU; :meth:`recv` returns its response."""
        self._require_idle()
        if len(data) > self.mtu:
            raise LinkError(
                LinkReason.UNSUPPORTED,
                f"{len(data)} bytes do not fit one APDU",
                hint=f"send at most {self.mtu} bytes",
            )
        command = bytes(data)
        self._pending = self._submit(
            lambda stop: self._field.transceive(self._device, command, stop)
        )

    async def recv(self) -> bytes:
        """Return the response to the command that was sent last.

        A cancelled wait ends the link's use: the exchange is given up between two frames.
        """
        job = self._pending
        if self._closed:
            raise closed()
        if job is None:
            raise LinkError(
                LinkReason.PROTOCOL, "nothing was sent, so nothing can come", hint="call send first"
            )
        try:
            return await job.result()
        finally:
            self._pending = None

    async def run_blocking(self, work: Callable[[Callable[[bytes], bytes]], T]) -> T:
        """Run ``work(exchange)`` on the reader's thread and return its result.

        ``exchange(command) -> response`` carries one APDU and raises LinkError. One hop between
        threads for a whole procedure. ``work`` must not touch the event loop.
        """
        self._require_idle()

        def job(stop: threading.Event) -> T:
            return work(lambda command: self._field.transceive(self._device, command, stop))

        return await self._submit(job).result()

    async def present(self) -> bool:
        """Ask the device by an R(NAK) whether it is still there (ISO/IEC 14443-4 §7.5.5)."""
        if self._closed:
            return False
        self._require_idle()
        try:
            return await self._submit(lambda stop: self._field.present(self._device, stop)).result()
        except LinkError:
            return False

    async def aclose(self) -> None:
        """Deselect the device if it still answers, and switch the field off."""
        if self._closed:
            return
        self._closed = True
        for job in self._jobs:
            job.abandon()
        try:
            ending = self._worker.submit(lambda stop: self._field.end(self._device, stop))
        except LinkError:  # the reader was closed before, and the field with it
            return
        await ending.finished(_CLOSE_S)

    def _submit(self, call: Callable[[threading.Event], T]) -> Job[T]:
        job = self._worker.submit(call)
        self._jobs = [other for other in self._jobs if not other.done]
        self._jobs.append(job)
        return job

    def _require_idle(self) -> None:
        if self._closed:
            raise closed()
        if self._pending is not None:
            raise LinkError(
                LinkReason.PROTOCOL,
                "the response to the last command was not taken",
                hint="call recv after each send",
            )
