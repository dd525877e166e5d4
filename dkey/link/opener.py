"""From a link string to an open link: the one place that knows every form."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dkey.errors import LinkError, LinkReason
from dkey.link.apdu_tcp import ApduTcpInitiator, serve_apdu_tcp
from dkey.link.msg_tcp import MsgTcpInitiator, serve_messages_tcp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bumble.device import Device

    from dkey.link.base import FrameTap, Initiator, Link, Responder
    from dkey.link.ble import Central
    from dkey.link.message_link import MessageTap
    from dkey.link.uci_link import UciLink

__all__ = [
    "KNOWN_LINKS",
    "KnownLink",
    "open_central",
    "open_initiator",
    "open_message_initiator",
    "open_uci",
    "serve",
    "serve_messages",
]


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
    KnownLink("msg-tcp:HOST:PORT", "whole BLE messages over TCP", usable=True),
    KnownLink("ble:ADDRESS", "vehicle in range of the Bluetooth adapter", usable=True),
    KnownLink("ble-sim:HOST:PORT", "vehicle on a simulated Bluetooth radio", usable=True),
    KnownLink("uci:/dev/ttyACM0", "UWB radio on a serial port", usable=True),
    KnownLink("uci-tcp:HOST:PORT", "UWB radio over TCP", usable=True),
    KnownLink("sim:", "everything simulated in this process", usable=False),
)
"""Every form, those that this build cannot open yet included."""

_LATER = frozenset(known.form.partition(":")[0] for known in KNOWN_LINKS if not known.usable)
_MESSAGES = frozenset({"msg-tcp", "ble", "ble-sim"})
"""Schemes whose links carry BLE messages and no APDUs."""
_PACKETS = frozenset({"uci", "uci-tcp"})
"""Schemes whose links carry UCI packets."""


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


def open_message_initiator(text: str, *, tap: FrameTap | MessageTap | None = None) -> Initiator:
    """Return the reader side of ``msg-tcp:HOST:PORT``; nothing is opened before ``sense``.

    Raises:
        LinkError: UNSUPPORTED for any other string.
    """
    host, port = _msg_tcp(text, lowest=1)
    return MsgTcpInitiator(host, port, tap=tap)


async def serve_messages(
    text: str,
    on_link: Callable[[Link], Awaitable[None]],
    *,
    once: bool = False,
    tap: FrameTap | MessageTap | None = None,
    on_listening: Callable[[int], None],
) -> None:
    """Be the device on ``msg-tcp:HOST:PORT``, until cancelled; port 0: one the system chooses.

    Args and errors are those of :func:`dkey.link.msg_tcp.serve_messages_tcp`.
    """
    host, port = _msg_tcp(text, lowest=0)
    await serve_messages_tcp(host, port, on_link, once=once, tap=tap, on_listening=on_listening)


def open_central(
    text: str, *, device: Device | None = None, tap: FrameTap | MessageTap | None = None
) -> Central:
    """Return the phone side of a BLE link string; no radio is touched before ``find``.

    Args:
        text: ``ble:`` for any vehicle or ``ble:ADDRESS`` for one, on the operating system's
            adapter; ``ble-sim:HOST:PORT`` or ``ble-sim:`` and the path of a unix socket; ``sim:``.
        device: The powered-on Bumble host that ``sim:`` stands for.
        tap: Told of each message if it has a method ``message``.

    Raises:
        LinkError: UNSUPPORTED for any other string, or ``sim:`` without a device.
    """
    # Loaded late: bleak takes time to import and other links do not need it.
    from dkey.link.ble import Central, bumble_radio, sim_radio  # noqa: PLC0415

    scheme, colon, rest = text.partition(":")
    if colon and scheme == "ble" and not any(each.isspace() for each in rest):
        return Central(address=rest or None, tap=tap)
    if scheme == "ble-sim" and rest:
        if "/" not in rest:
            _host_port(text, rest, lowest=1)
        return Central(lambda: sim_radio(rest), tap=tap)
    if text == "sim:" and device is not None:
        return Central(lambda: bumble_radio(device), tap=tap)
    raise _malformed(text, "ble:", "ble-sim:")


async def open_uci(text: str) -> UciLink:
    """Open the UWB subsystem that ``uci:PATH`` or ``uci-tcp:HOST:PORT`` names.

    Raises:
        LinkError: UNSUPPORTED for any other string; ABSENT, BUSY or DENIED as the transport says.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "uci-tcp":
        from dkey.link.uci_tcp import open_uci_tcp  # noqa: PLC0415 - only this link needs it

        host, port = _host_port(text, rest, lowest=1)
        return await open_uci_tcp(host, port)
    if scheme == "uci" and rest.startswith("/"):
        from dkey.link.uci_serial import open_uci_serial  # noqa: PLC0415 - needs pyserial

        return await open_uci_serial(rest)
    raise _malformed(text, "uci:", "uci-tcp:")


def _msg_tcp(text: str, *, lowest: int) -> tuple[str, int]:
    scheme, _, rest = text.partition(":")
    if scheme != "msg-tcp":
        raise _malformed(text, "msg-tcp:")
    return _host_port(text, rest, lowest=lowest)


def _split(text: str) -> tuple[str, str]:
    """Return the scheme, ``apdu-tcp`` or ``nfc``, and what follows its colon."""
    scheme, colon, rest = text.partition(":")
    if colon and scheme in _LATER:
        raise LinkError(
            LinkReason.UNSUPPORTED,
            f"this build does not have {scheme}: links yet",
            hint="run `dkey links` to see which links it has",
        )
    if colon and scheme in _MESSAGES:
        raise LinkError(
            LinkReason.UNSUPPORTED,
            f"a reader of APDUs does not have {scheme}: links, which carry BLE messages",
            hint="run `dkey links` to see what each form carries",
        )
    if colon and scheme in _PACKETS:
        raise LinkError(
            LinkReason.UNSUPPORTED,
            f"a reader of APDUs does not have {scheme}: links, which carry UCI packets",
            hint="run `dkey links` to see what each form carries",
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


def _malformed(text: str, *schemes: str) -> LinkError:
    own = text.partition(":")[0]
    wanted = schemes or ((f"{own}:",) if own in _MESSAGES | _PACKETS else ("apdu-tcp:", "nfc:"))
    forms = ", ".join(known.form for known in KNOWN_LINKS if known.form.startswith(wanted))
    return LinkError(
        LinkReason.UNSUPPORTED,
        f"{text!r} is no link that can be opened here; it takes {forms}",
        hint="run `dkey links` to see every form",
    )
