"""From a link string to an open link: the one place that knows every form."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dkey.errors import LinkError, LinkReason
from dkey.link.apdu_tcp import ApduTcpInitiator, serve_apdu_tcp

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkey.link.base import FrameTap, Initiator, Responder

__all__ = ["KNOWN_LINKS", "KnownLink", "open_initiator", "serve"]


class KnownLink(NamedTuple):
    """One form of link string.

    Attributes:
        form: The string, variable parts in capitals.
        meaning: What is behind it, one line.
        usable: Whether this build can open it, as far as is known without probing.
    """

    form: str
    meaning: str
    usable: bool


KNOWN_LINKS: tuple[KnownLink, ...] = (
    KnownLink("apdu-tcp:HOST:PORT", "APDUs over TCP to a device program", usable=True),
    KnownLink("nfc:udp:PORT", "simulated NFC field on this machine, over UDP", usable=True),
    KnownLink("nfc:tty:USB0:pn532", "NFC reader on a serial port", usable=True),
    KnownLink("nfc:/dev/ttyUSB0", "PN532 on the serial device at this path", usable=True),
    KnownLink("nfc:usb", "first NFC reader on USB that nfcpy supports", usable=True),
    KnownLink("pcsc:NAME", "NFC or contact reader through PC/SC", usable=False),
    KnownLink("msg-tcp:HOST:PORT", "whole BLE messages over TCP", usable=False),
    KnownLink("ble:ADDRESS", "vehicle in range of the Bluetooth adapter", usable=False),
    KnownLink("ble-sim:HOST:PORT", "vehicle on a simulated Bluetooth radio", usable=False),
    KnownLink("uci:/dev/ttyACM0", "UWB radio on a serial port", usable=False),
    KnownLink("uci-tcp:HOST:PORT", "UWB radio over TCP", usable=False),
    KnownLink("sim:", "everything simulated in this process", usable=False),
)
"""Every form, those that this build cannot open yet included."""

_LATER = frozenset(known.form.partition(":")[0] for known in KNOWN_LINKS if not known.usable)


def open_initiator(text: str, *, tap: FrameTap | None = None) -> Initiator:
    """Return the reader that the link string names; nothing is opened before ``sense``.

    Raises:
        LinkError: UNSUPPORTED for a malformed string or one that this build cannot open; what
            the reader's driver raises for one that is absent or busy.
    """
    scheme, rest = _split(text)
    if scheme == "apdu-tcp":
        host, port = _host_port(text, rest, lowest=1)
        return ApduTcpInitiator(host, port, tap=tap)
    if rest.startswith("udp:"):
        _port(text, rest.removeprefix("udp:"), lowest=1)
    # Loaded late: it needs nfcpy, which takes time to import and other links do not need.
    from dkey.link.nfc import NfcInitiator  # noqa: PLC0415

    return NfcInitiator(rest, tap=tap)


async def serve(
    text: str,
    responder: Responder,
    *,
    once: bool = False,
    tap: FrameTap | None = None,
    on_listening: Callable[[str], None],
) -> None:
    """Be the device on the link that the string names, until cancelled.

    Args:
        text: Link string; port 0 lets the system choose.
        responder: The device.
        once: Return after the first reader's field period.
        tap: Receives what passes.
        on_listening: Called once with the port, or the reader's name, as text.

    Raises:
        LinkError: UNSUPPORTED as for :func:`open_initiator`; else as the transport says.
    """
    scheme, rest = _split(text)
    if scheme == "apdu-tcp":
        host, port = _host_port(text, rest, lowest=0)
        await serve_apdu_tcp(
            host, port, responder, once=once, tap=tap, on_listening=lambda p: on_listening(str(p))
        )
    elif rest.startswith("udp:"):
        from dkey.link.nfc_udp import serve_nfc_udp  # noqa: PLC0415 - only this link needs it

        port = _port(text, rest.removeprefix("udp:"), lowest=0)
        await serve_nfc_udp(
            port, responder, once=once, tap=tap, on_listening=lambda p: on_listening(str(p))
        )
    else:
        from dkey.link.nfc_target import serve_nfc  # noqa: PLC0415 - needs nfcpy

        await serve_nfc(rest, responder, once=once, tap=tap, on_listening=on_listening)


def _split(text: str) -> tuple[str, str]:
    """Return the scheme, ``apdu-tcp`` or ``nfc``, and what follows its colon."""
    scheme, colon, rest = text.partition(":")
    if colon and scheme in _LATER:
        raise LinkError(
            LinkReason.UNSUPPORTED,
            f"this build does not have {scheme}: links yet",
            hint="run `dkey links` to see which links it has",
        )
    kinds = ("udp:", "tty:", "usb:")
    if scheme == "apdu-tcp" or (scheme == "nfc" and (rest == "usb" or rest.startswith(kinds))):
        return scheme, rest
    raise _malformed(text)


def _host_port(text: str, rest: str, *, lowest: int) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; an IPv6 address may stand in brackets."""
    host, _, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host:
        raise _malformed(text)
    return host, _port(text, port, lowest=lowest)


def _port(text: str, digits: str, *, lowest: int) -> int:
    if not (digits.isascii() and digits.isdigit() and lowest <= int(digits[:6]) <= 65535):
        raise _malformed(text)
    return int(digits)


def _malformed(text: str) -> LinkError:
    forms = ", ".join(known.form for known in KNOWN_LINKS if known.usable)
    return LinkError(
        LinkReason.UNSUPPORTED,
        f"{text!r} is no link this build can open; it takes {forms}",
        hint="run `dkey links` to see every form",
    )
