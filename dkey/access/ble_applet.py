"""The access transaction inside BLE messages: what BLE leaves out, and what ends it there.

BLE has no SELECT (the A5 object comes in Initiate AP), no CONTROL FLOW (an Event tells of a
failure) and no last EXCHANGE (AP Completed proves the reader) (Aliro 1.0 §8.3.3.1, §11.1).
:func:`over_ble` fits a procedure of the reader to that, :class:`BleApplet` the device's applet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from dkey.access.credential import DeviceCredential, DeviceEvent
from dkey.access.device import AccessApplet
from dkey.access.device_states import DeviceState
from dkey.access.messages import Ins
from dkey.access.profile import Interface
from dkey.codec import tlv
from dkey.codec.apdu import SW, Response
from dkey.errors import SequenceError

if TYPE_CHECKING:
    from collections.abc import Generator

    from dkey.access.credential import DeviceStore
    from dkey.access.schedule import SessionKeys
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.secret import Secret

__all__ = ["BleApplet", "over_ble"]

T = TypeVar("T")


def over_ble(
    procedure: Generator[bytes, bytes, T], aid: bytes = b"", a5: bytes = b""
) -> Generator[bytes, bytes, T]:
    """Run a reader's procedure without the commands that BLE does not have.

    SELECT is answered from what the device sent first, CONTROL FLOW is not sent; every other
    command passes.

    Args:
        procedure: Yields command APDUs and is sent response APDUs.
        aid: Application identifier that the answer to SELECT names.
        a5: The A5 object of Initiate AP, byte for byte.
    """
    selected = Response(tlv.encode(0x6F, tlv.encode(0x84, aid) + a5)).to_bytes()
    try:
        request = next(procedure)
        while True:
            if request[1] == Ins.SELECT:
                answer = selected
            elif request[1] == Ins.CONTROL_FLOW:
                answer = Response(sw=SW.OK).to_bytes()
            else:
                answer = yield request
            request = procedure.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        procedure.close()


class BleApplet(AccessApplet):
    """The access applet of one credential on one BLE connection.

    Args:
        credential: As for AccessApplet.
        entropy: As for AccessApplet.
        store: As for AccessApplet.
        extension: As for AccessApplet.
        user_authenticated: As for AccessApplet.
        fast_enabled: As for AccessApplet.
    """

    def __init__(
        self,
        credential: DeviceCredential,
        entropy: Entropy,
        *,
        store: DeviceStore | None = None,
        extension: bytes = b"",
        user_authenticated: bool = True,
        fast_enabled: bool = True,
    ) -> None:
        super().__init__(
            credential,
            entropy,
            store=store,
            interface=Interface.BLE,
            extension=extension,
            user_authenticated=user_authenticated,
            fast_enabled=fast_enabled,
        )

    @property
    def session_keys(self) -> SessionKeys | None:
        """The keys of a transaction that may be completed now; None in every other state."""
        if self.state is not DeviceState.SECURED or self._now is None:
            return None
        return self._now.keys

    def complete(self, status: int) -> tuple[DeviceEvent, Secret | None]:
        """End the transaction after the reader proved itself under its BLE key.

        Kpersistent is kept now if no EXCHANGE came before; the transaction's keys are dropped.

        Args:
            status: Reader status that AP Completed stands for.

        Returns:
            What the transaction was, and the ranging secret if the reader released it.

        Raises:
            SequenceError: No transaction may be completed.
            StoreError: Kpersistent could not be kept.
        """
        now = self._now
        if self.state is not DeviceState.SECURED or now is None or now.keys is None:
            raise SequenceError("no transaction may be completed", clause="Aliro 1.0 §11.1.2")
        if not now.confirmed:
            self._confirm(now)
        event = DeviceEvent(
            group_id=now.context.reader_id[:16],
            sub_id=now.context.reader_id[16:],
            fast=now.kpersistent is None,
            status=status,
            keys=now.keys,
            kpersistent=now.kpersistent,
            transaction_id=now.context.transaction_id,
        )
        self.events.append(event)
        ursk = now.keys.ursk if now.ursk_released else None
        self._forget()
        return event, ursk
