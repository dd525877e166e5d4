"""Card emulation through nfcpy: the device side of ``nfc:`` links on readers that can listen."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Any

from dkey.errors import LinkError, LinkReason
from dkey.link.isodep_target import IsoDepTarget
from dkey.link.nfc_readers import open_reader
from dkey.link.reader_thread import ReaderThread

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from dkey.link.base import FrameTap, Responder

__all__ = ["serve_nfc"]

_SLICE_S = 0.2
_FWI = 10  # 309 ms for an answer: two UART hops at 115200 baud and a signature fit in
# nfcpy answers RATS itself and keeps the reader's frame size to itself, so blocks are kept to what
# even the small ones take: FSDI 5, 64 bytes, is what NXP's reader chips ask for on their own.
_ASSUMED_RATS = b"\xe0\x50"


async def serve_nfc(
    path: str,
    responder: Responder,
    *,
    once: bool = False,
    tap: FrameTap | None = None,
    on_listening: Callable[[str], None],
) -> None:
    """Emulate a Type 4A device on the reader ``nfc:path`` until cancelled.

    PN53x chips choose the UID's first byte, 08h (a random UID); the rest is random for each field
    period. Cancelling returns within about 0.6 s.

    Args:
        path: Link string without ``nfc:``.
        responder: Answers APDUs, on the reader's thread.
        once: Return after the first reader's field period.
        tap: Receives blocks and field changes; REQA to ATS run below us and are not reported.
        on_listening: Called once with the reader's name.

    Raises:
        LinkError: ABSENT, BUSY, DENIED when the reader cannot be opened, UNSUPPORTED when it cannot
            listen (an ACR122U cannot), LOST when it stopped working.
    """
    emulation = _Emulation(path, responder, tap)
    worker = ReaderThread()
    try:
        on_listening(await worker.submit(lambda _stop: emulation.open()).result())
        await worker.submit(lambda stop: emulation.serve(stop, once=once)).result()
    finally:
        await worker.finish(emulation.close)


class _Emulation:
    """The open reader in the target role. Every method runs on the worker thread."""

    def __init__(self, path: str, responder: Responder, tap: FrameTap | None) -> None:
        self._path = path
        self._responder = responder
        self._tap = tap
        self._isodep = IsoDepTarget(responder.answer, fwi=_FWI)
        self._frontend: Any = None

    def open(self) -> str:
        """Open the reader and return its name."""
        self._frontend = open_reader(self._path)
        return str(self._frontend.device)

    def close(self) -> None:
        """Close the reader, whatever state it is in."""
        frontend, self._frontend = self._frontend, None
        if frontend is not None:
            # A reader that was unplugged fails here in as many ways as nfcpy has drivers.
            with contextlib.suppress(Exception):
                frontend.close()

    def serve(self, stop: threading.Event, *, once: bool) -> None:
        """Serve one field period after the other until ``stop``."""
        import nfc.clf  # noqa: PLC0415 - takes 40 ms; opening has imported it already

        while not stop.is_set():
            try:
                block = self._listen(nfc.clf)
                if block is None:
                    continue
                self._serve_period(nfc.clf, block, stop)
            except (nfc.clf.UnsupportedTargetError, NotImplementedError) as exc:
                raise LinkError(
                    LinkReason.UNSUPPORTED,
                    f"the reader nfc:{self._path} cannot emulate a card",
                    hint="use a PN532, PN533 or RC-S380 reader",
                ) from exc
            except Exception as exc:
                raise LinkError(
                    LinkReason.LOST,
                    f"the reader nfc:{self._path} stopped working ({exc!r})",
                    hint="plug it in again, then run `dkey doctor`",
                ) from exc
            if once:
                return

    def _listen(self, clf: Any) -> bytes | None:
        """Return the first block of a reader that activated us, None when nobody came."""
        identity = clf.LocalTarget(
            "106A",
            sens_res=bytearray(b"\x04\x00"),
            sdd_res=bytearray(b"\x08" + secrets.token_bytes(3)),
            sel_res=bytearray(b"\x20"),
            rats_res=bytearray(self._isodep.ats),
        )
        target = self._frontend.listen(identity, _SLICE_S)
        return bytes(target.tt4_cmd) if target is not None and target.tt4_cmd else None

    def _serve_period(self, clf: Any, block: bytes, stop: threading.Event) -> None:
        """Answer blocks until the field goes off."""
        self._isodep.reset()
        self._isodep.receive(_ASSUMED_RATS)
        if self._tap is not None:
            self._tap.field(on=True)
        heard: bytes | None = block
        try:
            while not stop.is_set():
                answer = None
                if heard is not None:
                    answer = self._isodep.receive(heard)
                    self._note(heard, answer)
                try:
                    command = self._frontend.exchange(answer and bytearray(answer), _SLICE_S)
                    heard = bytes(command) if command else None
                except clf.BrokenLinkError:
                    return
                except clf.TimeoutError:
                    heard = None
                    if not self._isodep.active:  # deselected, and no new activation can reach us
                        return
                except clf.CommunicationError:
                    heard = None
        finally:
            self._isodep.reset()
            self._responder.field_off()
            if self._tap is not None:
                self._tap.field(on=False)

    def _note(self, heard: bytes, answer: bytes | None) -> None:
        if self._tap is not None:
            self._tap.frame(from_reader=True, data=heard)
            if answer is not None:
                self._tap.frame(from_reader=False, data=answer)
