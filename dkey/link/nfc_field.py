"""The field of an NFC reader through nfcpy: what runs on the reader's own thread.

Blocking code. :mod:`dkey.link.nfc` hands it over and awaits it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from dkey.errors import LinkError, LinkReason
from dkey.link.isodep import IsoDepInitiator, Transmit, activate
from dkey.link.nfc_readers import open_reader
from dkey.link.reader_thread import closed
from dkey.link.type_a import crc_a

if TYPE_CHECKING:
    import threading

    from dkey.link.base import FrameTap

__all__ = ["Activation", "NfcField"]

T = TypeVar("T")
Procedure = Generator[Transmit, "bytes | None", T]

_POLL_GAP_S = 0.05
_ISO_DEP_SAK = 0x20


class Activation:
    """A device that answered RATS, the field period it was found in, and whether it still is."""

    def __init__(self, isodep: IsoDepInitiator, period: int) -> None:
        self.isodep = isodep
        self.period = period
        self.between_apdus = True


class NfcField:
    """The open reader and its field. Every method runs on the worker thread."""

    def __init__(self, path: str, tap: FrameTap | None, polling_frame: bytes | None) -> None:
        self._path = path
        self._tap = tap
        self._polling_frame = polling_frame
        self._frontend: Any = None
        self._nfc: Any = None
        self._period = 0
        self._tapped_on = False

    def sense(self, timeout_s: float, stop: threading.Event) -> Activation | None:
        """Poll until a Type 4A device is active, the time is over, or ``stop``."""
        deadline_s = time.monotonic() + timeout_s
        self._period += 1
        self._note_off()
        self._open()
        while not stop.is_set():
            target = self._guarded(self._poll)
            if target is not None and (target.sel_res or b"\x00")[0] & _ISO_DEP_SAK:
                self._note_activation(target)
                device = self._activate(stop)
                if device is not None:
                    return device
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                break
            stop.wait(min(_POLL_GAP_S, left_s))
        self.off()
        return None

    def transceive(self, device: Activation, command: bytes, stop: threading.Event) -> bytes:
        """Carry one APDU; LinkError(CLOSED) once ``stop`` is set or the device's period ended."""
        self._require_current(device)
        device.between_apdus = False
        response = self._run(device.isodep.transceive(command), stop)
        device.between_apdus = True
        return response

    def present(self, device: Activation, stop: threading.Event) -> bool:
        """Whether the device of this period still answers."""
        self._require_current(device)
        return device.between_apdus and self._run(device.isodep.present(), stop)

    def end(self, device: Activation, stop: threading.Event) -> None:
        """Deselect the device unless an exchange with it failed, and end its field period."""
        if device.period != self._period:
            return
        try:
            if device.between_apdus:
                self._run(device.isodep.deselect(), stop)
        finally:
            self.off()

    def off(self) -> None:
        """Switch the field off."""
        self._period += 1
        if self._frontend is not None:
            self._guarded(self._frontend.sense)  # without targets: field off, as nfcpy documents
        self._note_off()

    def close(self) -> None:
        """Close the reader, whatever state it is in."""
        self._period += 1
        frontend, self._frontend = self._frontend, None
        if frontend is not None:
            # A reader that was unplugged fails here in as many ways as nfcpy has drivers.
            with contextlib.suppress(Exception):
                frontend.close()
        self._note_off()

    def _open(self) -> None:
        if self._frontend is not None:
            return
        frontend = open_reader(self._path)
        import nfc.clf  # noqa: PLC0415 - takes 40 ms; opening has imported it already

        self._nfc, self._frontend = nfc.clf, frontend
        if self._polling_frame is not None and not _is_pn53x(frontend.device):
            self.close()
            raise LinkError(
                LinkReason.UNSUPPORTED,
                f"the reader nfc:{self._path} cannot send a polling frame",
                hint="use a PN532 or PN533 reader, or leave the polling frame away",
            )

    def _poll(self) -> Any:
        """Return what one request finds, or None."""
        request = self._nfc.RemoteTarget("106A")
        if self._polling_frame is None:
            return self._frontend.sense(request)
        # ContactlessFrontend.sense would switch the field off before the second request, and with
        # it whatever the polling frame has woken.
        self._frontend.sense()
        device = self._frontend.device
        target = device.sense_tta(request)
        if target is None:
            self._send_polling_frame(device.chipset, self._polling_frame)
            target = device.sense_tta(request)
        self._frontend.target = target
        return target

    def _send_polling_frame(self, chipset: Any, frame: bytes) -> None:
        """Send ``frame`` and its CRC as a whole-byte Type A frame; no answer is expected.

        UM0701-02 §7.3.1 (RFConfiguration), §7.3.9 (InCommunicateThru), §8.6.23.14 (BitFraming):
        one activation attempt, 12.8 ms wait, 106 kbit/s with the chip's own CRC off, whole bytes.
        """
        chipset.rf_configuration(0x05, bytes([0x00, 0x00, 0x00]))
        chipset.rf_configuration(0x02, bytes([0x0A, 0x0B, 0x08]))
        chipset.write_register(("CIU_TxMode", 0x00), ("CIU_RxMode", 0x00), ("CIU_BitFraming", 0x00))
        self._note_frame(frame, from_reader=True)
        try:
            chipset.in_communicate_thru(bytearray(frame + crc_a(frame)), 0.25)
        except self._nfc.pn53x.Chipset.Error as exc:
            if exc.errno != 0x01:  # 01h is the expected silence
                raise

    def _activate(self, stop: threading.Event) -> Activation | None:
        """Run RATS; None when the device left or does not speak ISO-DEP."""
        frontend = self._frontend
        room = min(frontend.max_send_data_size, frontend.max_recv_data_size) + 2  # with CRC
        try:
            isodep = self._run(activate(max_frame=min(256, room)), stop)
        except LinkError as exc:
            if self._frontend is None or exc.reason is LinkReason.CLOSED:
                raise
            self._note_off()
            return None
        if isodep.sfgt_s:
            stop.wait(isodep.sfgt_s)
        return Activation(isodep, self._period)

    def _run(self, procedure: Procedure[T], stop: threading.Event) -> T:
        """Drive ``procedure`` to its end, one frame after the other."""
        try:
            step = next(procedure)
            while not stop.is_set():
                step = procedure.send(self._exchange(step))
        except StopIteration as finished:
            return finished.value  # type: ignore[no-any-return]
        finally:
            procedure.close()
        raise closed()

    def _exchange(self, step: Transmit) -> bytes | None:
        """Send one frame; return the answer, None when there is none or it is damaged."""
        tap, clf = self._tap, self._nfc
        if tap is not None:
            tap.frame(from_reader=True, data=step.frame)
        try:
            answer = self._frontend.exchange(bytearray(step.frame), step.timeout_s)
        except clf.BrokenLinkError as exc:
            raise LinkError(
                LinkReason.LOST, "the device left the field", hint="tap again and hold still"
            ) from exc
        except clf.CommunicationError:
            return None
        except Exception as exc:
            raise self._reader_lost(exc) from exc
        if not answer:
            return None
        data = bytes(answer)
        if tap is not None:
            tap.frame(from_reader=False, data=data)
        return data

    def _guarded(self, call: Callable[[], Any]) -> Any:
        """Make a call into nfcpy that is not an exchange."""
        try:
            return call()
        except self._nfc.CommunicationError:  # a damaged answer to a request: nobody there
            return None
        except self._nfc.UnsupportedTargetError as exc:
            raise LinkError(
                LinkReason.UNSUPPORTED,
                f"the reader nfc:{self._path} cannot sense Type A devices",
                hint="use another reader",
            ) from exc
        except Exception as exc:
            raise self._reader_lost(exc) from exc

    def _reader_lost(self, cause: Exception) -> LinkError:
        """Close the reader after an error of its own; the next sense opens it again."""
        self.close()
        return LinkError(
            LinkReason.LOST,
            f"the reader nfc:{self._path} stopped working ({cause!r})",
            hint="plug it in again, then run `dkey doctor`",
        )

    def _require_current(self, device: Activation) -> None:
        if device.period != self._period:
            raise LinkError(
                LinkReason.CLOSED,
                "the field period of this link is over",
                hint="use the link that the last sense returned",
            )

    # ---- the tap -------------------------------------------------------------------------

    def _note_frame(self, data: bytes, *, from_reader: bool) -> None:
        if self._tap is not None:
            self._tap.frame(from_reader=from_reader, data=data)

    def _note_off(self) -> None:
        if self._tapped_on and self._tap is not None:
            self._tap.field(on=False)
        self._tapped_on = False

    def _note_activation(self, target: Any) -> None:
        """Report the frames that the chip exchanged to find ``target`` (ISO/IEC 14443-3 §6.5)."""
        if self._tap is None:
            return
        self._tap.field(on=True)
        self._tapped_on = True
        self._note_frame(b"\x26", from_reader=True)
        self._note_frame(bytes(target.sens_res), from_reader=False)
        uid, level = bytes(target.sdd_res), 0x93
        while uid:
            last = len(uid) == 4
            part = uid if last else b"\x88" + uid[:3]
            part += bytes([part[0] ^ part[1] ^ part[2] ^ part[3]])
            uid = b"" if last else uid[3:]
            self._note_frame(bytes([level, 0x20]), from_reader=True)
            self._note_frame(part, from_reader=False)
            self._note_frame(bytes([level, 0x70]) + part, from_reader=True)
            self._note_frame(bytes(target.sel_res) if last else b"\x04", from_reader=False)
            level += 2


def _is_pn53x(device: Any) -> bool:
    """Whether ``device`` drives a PN53x chip directly; an ACR122U puts its own firmware before."""
    from nfc.clf import acr122, pn53x  # noqa: PLC0415

    return isinstance(device, pn53x.Device) and not isinstance(device, acr122.Device)
