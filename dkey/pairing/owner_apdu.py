"""Owner pairing over NFC: the vehicle is the reader and speaks first (specs/pairing.md §4).

The answer to SELECT stands for BEGIN. Each message of the vehicle is a command whose instruction is
the message's kind; the response carries the data of the phone's next message, or a status.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from dkey.access.applet import quiet
from dkey.access.select import SelectResponse, select_command
from dkey.codec.apdu import SW, Command, Limits, Response, exchange
from dkey.errors import DkeyError, StatusError, WireError
from dkey.pairing.owner_device import Stretch
from dkey.pairing.owner_messages import CLAUSE, OWNER_AID, VERSION, Begin, Kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from dkey.crypto.spake2plus import Registration
    from dkey.pairing.owner_device import OwnerPairingDevice
    from dkey.pairing.owner_vehicle import OwnerPairingVehicle

log = logging.getLogger(__name__)
__all__ = ["OwnerPairingApplet", "as_apdus", "select_phone", "tell_phone"]

_ANSWERS: Final = {
    Kind.OFFER: Kind.SHARE,
    Kind.PROOF: Kind.CONFIRM,
    Kind.GRANT: Kind.ACCEPT,
    Kind.DONE: None,
    Kind.REFUSED: None,
}
"""What the phone answers to each command; None: nothing but the status."""


# --- the vehicle -------------------------------------------------------------------------------


def select_phone() -> Generator[bytes, bytes, bytes]:
    """Select the pairing application and return BEGIN as the phone would have said it.

    Raises:
        StatusError: The device does not pair.
        WireError: Malformed.
    """
    raw = yield from exchange(select_command(OWNER_AID), Limits())
    if raw.sw != SW.OK:
        raise StatusError("SELECT", raw.sw, clause=CLAUSE)
    found = SelectResponse.parse(raw.data, minimal=True)
    if found.aid != OWNER_AID:
        raise WireError("another application answered", clause=CLAUSE)
    return Begin(versions=found.versions).to_bytes()


def tell_phone(message: bytes) -> Generator[bytes, bytes, bytes | None]:
    """Send a message of the vehicle; return the phone's, None when none follows.

    Raises:
        StatusError: The phone gave up.
        WireError: Malformed.
    """
    kind = kind_of(message)
    if kind not in _ANSWERS:
        raise WireError(f"{kind.name} is no message of the vehicle over NFC", clause=CLAUSE)
    command = Command(0x80, kind, 0, 0, message[1:], 256)
    answer = yield from exchange(command, Limits(total=1024))
    if kind is Kind.REFUSED:
        return None  # the phone ends the attempt, whatever it says
    if answer.sw != SW.OK:
        raise StatusError(kind.name, answer.sw, clause=CLAUSE)
    expected = _ANSWERS[kind]
    if expected is None:
        if answer.data:
            raise WireError(f"{kind.name} was answered with data", clause=CLAUSE)
        return None
    return bytes((expected,)) + answer.data


def as_apdus(procedure: OwnerPairingVehicle) -> Generator[bytes, bytes, None]:
    """Run a whole pairing as command APDUs; its register is called wherever this runs.

    A vehicle whose store belongs to one thread runs :func:`select_phone` and :func:`tell_phone`
    one by one instead.

    Raises:
        DkeyError: As :meth:`OwnerPairingVehicle.step`, and StatusError.
        PolicyRefusal: The device was refused; it was told.
    """
    answer: bytes | None = yield from select_phone()
    while answer is not None:
        answer = yield from tell_phone(procedure.step(answer))
    if procedure.refusal is not None:
        raise procedure.refusal


# --- the phone ---------------------------------------------------------------------------------


class OwnerPairingApplet:
    """The pairing applet of a phone.

    Args:
        device: Makes the phone's end of a new attempt; called at each SELECT. A DkeyError from it
            refuses the SELECT.
        stretch: Stretches the code; runs where the reader's command is answered.
        paired: Told of the finished attempt, after DONE.
        failed: Told why an attempt ended.
    """

    def __init__(
        self,
        device: Callable[[], OwnerPairingDevice],
        stretch: Callable[[Stretch], Registration],
        *,
        paired: Callable[[OwnerPairingDevice], None] | None = None,
        failed: Callable[[DkeyError], None] | None = None,
    ) -> None:
        self.aid = OWNER_AID
        self._make = device
        self._stretch = stretch
        self._paired = paired
        self._failed = failed
        self._now: OwnerPairingDevice | None = None
        self._fci = SelectResponse(aid=OWNER_AID, versions=(VERSION,)).to_bytes()

    def select(self) -> Response:
        """Begin anew."""
        self._forget()
        try:
            device = self._make()
            device.begin()
        except DkeyError as exc:
            log.debug("no owner pairing: %s", quiet(exc))
            return Response(sw=SW.CONDITIONS)
        self._now = device
        return Response(self._fci)

    def deselect(self) -> None:
        """The attempt is over: forget its keys."""
        self._forget()

    def fail(self) -> None:
        """Forget the keys after a malformed command."""
        self._forget()

    def command(self, command: Command) -> Response:
        """Answer one whole command; every failure is one status and ends the attempt."""
        try:
            return Response(self._answer(command))
        except Exception as exc:  # noqa: BLE001 - a store's own fault must not leave keys behind
            self._forget()
            if isinstance(exc, DkeyError):
                log.debug("owner pairing failed: %s", quiet(exc))
                if self._failed is not None:
                    self._failed(exc)
            else:
                log.error("owner pairing failed inside: %s", type(exc).__name__)  # noqa: TRY400
            return Response(sw=SW.SECURITY)

    def _answer(self, command: Command) -> bytes:
        device = self._now
        if command.cla != 0x80 or command.p1 or command.p2 or device is None:
            raise WireError("class, parameters or order", clause=CLAUSE)
        if command.ins not in _ANSWERS:
            raise WireError("unknown instruction", clause=CLAUSE)
        answer = device.step(bytes((command.ins,)) + command.data)
        if isinstance(answer, Stretch):
            answer = device.stretched(self._stretch(answer))
        if answer is not None:
            return answer[1:]
        self._now = None
        if self._paired is not None:
            self._paired(device)
        return b""

    def _forget(self) -> None:
        now, self._now = self._now, None
        if now is not None:
            now.abandon()
