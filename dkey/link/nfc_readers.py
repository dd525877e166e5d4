"""Opens NFC readers through nfcpy, and says which ones there are and what stands in their way."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkey.errors import LinkError, LinkReason

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ReaderFinding", "find_readers", "open_reader"]

_DOCTOR = "run `dkey doctor` to see the readers and what holds them"
_BLACKLIST = (
    "the kernel driver pn533_usb holds the reader: "
    "`echo blacklist pn533_usb | sudo tee /etc/modprobe.d/blacklist-nfc.conf`, "
    "then `sudo modprobe -r pn533_usb`"
)
_PCSCD = "pcscd holds the reader: `sudo systemctl stop pcscd.socket pcscd`, or use a pcsc: link"
_UDEV = "add a udev rule that gives your user read and write access, then plug the reader in again"
_DIALOUT = "join the group that owns the port: `sudo usermod -aG dialout $USER`, then log in again"
# nfcpy hands the path to a shell (`stty -F PATH`), so nothing that a shell interprets gets there.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./:+@=,-]+")
_SERIAL_GLOBS = ("ttyUSB*", "ttyACM*", "ttyAMA*", "serial0", "cu.usbserial*")
_SERIAL_DRIVERS = ("pn532", "arygon")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderFinding:
    """One reader, or one circumstance that decides whether readers work.

    Attributes:
        link: Link string that opens it; empty for a circumstance.
        name: What it is, for people.
        status: Why it cannot be used; None when nothing speaks against it.
        hint: What to do next; None when nothing needs doing.
    """

    link: str
    name: str
    status: LinkReason | None = None
    hint: str | None = None


def open_reader(path: str) -> Any:
    """Return nfcpy's ``ContactlessFrontend`` for the link string ``nfc:path``. Blocks.

    ``path`` is ``tty:NAME:DRIVER``, ``usb[:VID:PID]``, ``usb:BUS:DEVICE``, ``udp:[HOST:]PORT`` or
    the absolute path of a serial device with a PN532 on it.

    Raises:
        LinkError: ABSENT, BUSY, DENIED or UNSUPPORTED, each with a hint.
    """
    kind, _, rest = path.partition(":")
    if path.startswith("/"):
        return _open_serial(path, "pn532")
    if kind == "tty":
        name, _, driver = rest.partition(":")
        exact = _serial_device(name)
        if exact is not None and driver in _SERIAL_DRIVERS:
            return _open_serial(exact, driver)
        return _search(path)
    if kind == "udp":
        host, _, port = rest.rpartition(":")
        if port.isdecimal():
            return _search(f"udp:{host or '127.0.0.1'}:{port}")
    elif kind == "usb":
        return _search(path)
    raise LinkError(
        LinkReason.UNSUPPORTED,
        f"nfc:{path} is not a reader path",
        hint="write nfc:usb, nfc:usb:072f:2200, nfc:tty:USB0:pn532, nfc:udp:PORT or nfc:/dev/NAME",
    )


# ---- serial ----------------------------------------------------------------------------------


def _serial_device(name: str) -> str | None:
    """Return the device that ``tty:NAME`` means, or None when NAME is a search pattern."""
    if re.fullmatch(r"(S|ACM|AMA|USB)\d+", name):
        return f"/dev/tty{name}"
    if re.fullmatch(r"usbserial-\w+", name):
        return f"/dev/cu.{name}"
    return f"/dev/{name}" if re.fullmatch(r"[A-Za-z]+-?\w*\d", name) else None


def _open_serial(device: str, driver: str) -> Any:
    _require_serial(device)
    try:
        return _start_driver(device, driver)
    except OSError as exc:
        if driver != "pn532" or not _is_silence(exc):
            raise _open_error(exc, device) from exc
    # A host that died left the chip at the speed that nfcpy had chosen; it would not be found
    # again until it loses power.
    if _reset_baud_rate(device):
        try:
            return _start_driver(device, driver)
        except OSError as exc:
            raise _open_error(exc, device) from exc
    raise LinkError(
        LinkReason.ABSENT,
        f"no PN532 answers on {device}",
        hint="set the board's switches to HSU (UART), check TX and RX, and power it off and on",
    )


def _require_serial(device: str) -> None:
    if not _PLAIN_PATH.fullmatch(device):
        raise LinkError(
            LinkReason.UNSUPPORTED,
            f"the device path {device!r} has characters that a shell would interpret",
            hint="use a path of letters, digits and _ . / : + @ = , - only",
        )
    try:
        mode = Path(device).stat().st_mode
    except PermissionError as exc:
        raise LinkError(LinkReason.DENIED, f"no access to {device}", hint=_DIALOUT) from exc
    except OSError as exc:
        raise LinkError(LinkReason.ABSENT, f"there is no {device}", hint=_DOCTOR) from exc
    if not stat.S_ISCHR(mode):
        raise LinkError(LinkReason.UNSUPPORTED, f"{device} is not a serial device", hint=_DOCTOR)
    if not os.access(device, os.R_OK | os.W_OK):
        raise LinkError(LinkReason.DENIED, f"no access to {device}", hint=_DIALOUT)


def _start_driver(device: str, driver: str) -> Any:
    """Start one of nfcpy's serial drivers on ``device``: the one place that goes below its paths.

    nfcpy's path syntax knows names directly under /dev only. Its pn532 driver runs ``stty`` through
    a shell to find the fastest speed of the port, and stays at 115200 when there is no ``stty``.
    """
    import importlib  # noqa: PLC0415 - nfcpy takes 40 ms to import; only a reader needs it

    import nfc.clf  # noqa: PLC0415
    import nfc.clf.transport  # noqa: PLC0415

    init = importlib.import_module(f"nfc.clf.{driver}").init
    port = nfc.clf.transport.TTY(device)
    try:
        reader = init(port)
    except BaseException as exc:
        port.close()
        if isinstance(exc, IndexError):  # nfcpy on an answer that is cut short
            raise OSError(errno.EIO, "damaged answer") from exc
        raise
    reader._path = device  # noqa: SLF001 - nfcpy's own connect() sets it so
    frontend = nfc.clf.ContactlessFrontend()
    frontend.device = reader
    return frontend


def _is_silence(error: OSError) -> bool:
    return error.errno in (errno.ENODEV, errno.ETIMEDOUT, errno.EIO)


def _reset_baud_rate(device: str) -> bool:
    """Find a PN532 at a higher speed and set it back to 115200 (UM0701-02 §7.2.9)."""
    import serial  # noqa: PLC0415

    ack = bytes.fromhex("0000ff00ff00")
    set_115200 = bytes.fromhex("0000ff03fdd41004 1800")
    done = bytes.fromhex("0000ff02fed5111a00")
    for baud_rate in (921_600, 460_800, 230_400):
        with (
            contextlib.suppress(OSError, ValueError),
            serial.Serial(device, baud_rate, timeout=0.05) as port,
        ):
            port.reset_input_buffer()
            port.write(bytes(10) + ack + set_115200)
            if port.read(len(ack) + len(done)) == ack + done:
                port.write(ack)  # the new speed holds from here on
                port.flush()
                time.sleep(0.002)
                return True
    return False


# ---- USB and UDP -----------------------------------------------------------------------------


def _search(path: str) -> Any:
    """Let nfcpy search; it swallows the reason of most failures, so look for one afterwards."""
    import nfc.clf  # noqa: PLC0415

    if path.startswith("usb"):
        _usb_devices()  # says so when libusb is missing
    frontend = nfc.clf.ContactlessFrontend()
    try:
        if frontend.open(path):
            return frontend
    except OSError as exc:
        raise _open_error(exc, f"nfc:{path}") from exc
    except ValueError as exc:  # nfcpy looks UDP ports up and fails on those that have a name
        raise LinkError(
            LinkReason.UNSUPPORTED,
            f"nfcpy cannot open nfc:{path} ({exc})",
            hint="for udp choose a port above 49152, which has no name in /etc/services",
        ) from exc
    if path.startswith("usb"):
        raise _usb_error(path)
    raise LinkError(LinkReason.ABSENT, f"no reader found on nfc:{path}", hint=_DOCTOR)


def _usb_error(path: str) -> LinkError:
    wanted = tuple(path.split(":")[1:])
    for finding in _usb_findings():
        if finding.status is not None and (len(wanted) < 2 or finding.link.endswith(path)):
            return LinkError(finding.status, f"{finding.name} cannot be used", hint=finding.hint)
    return LinkError(
        LinkReason.ABSENT,
        f"no supported reader answers on nfc:{path}",
        hint="plug one in; ACR122U revisions 215 and 216 work through a pcsc: link only",
    )


def _open_error(error: OSError, where: str) -> LinkError:
    """Tell an operating system error as a reason and a next step."""
    code = error.errno
    usb = "usb" in where
    if code in (errno.EACCES, errno.EPERM):
        return LinkError(
            LinkReason.DENIED, f"no access to {where}", hint=_UDEV if usb else _DIALOUT
        )
    if code == errno.EBUSY:
        hint = _BLACKLIST if _kernel_driver_loaded() else _PCSCD
        if not usb:
            hint = f"`sudo fuser -v {where}` names the program that holds the port"
        return LinkError(LinkReason.BUSY, f"{where} is in use", hint=hint)
    if code in (errno.ENODEV, errno.ENOENT, errno.ENXIO, errno.ETIMEDOUT, errno.EIO):
        return LinkError(LinkReason.ABSENT, f"no reader answers on {where}", hint=_DOCTOR)
    return LinkError(LinkReason.UNSUPPORTED, f"{where}: {error}", hint=_DOCTOR)


# ---- findings --------------------------------------------------------------------------------


def find_readers(*, probe: bool = False) -> list[ReaderFinding]:
    """List readers that nfcpy may use, and circumstances that matter. Reads only; never raises.

    Serial ports are listed by permission; whether a PN532 is there is only known with ``probe``,
    which opens each of them for a moment.
    """
    findings: list[ReaderFinding] = []
    parts: tuple[Callable[[], list[ReaderFinding]], ...] = (
        lambda: _serial_findings(probe=probe),
        _usb_findings,
        _circumstances,
    )
    for part in parts:
        try:
            findings += part()
        except Exception as exc:  # noqa: BLE001 - a diagnosis goes on where a part of it fails
            findings.append(
                ReaderFinding(link="", name=f"search: {exc}", status=LinkReason.UNSUPPORTED)
            )
    return findings


def _serial_findings(*, probe: bool) -> list[ReaderFinding]:
    findings = []
    for pattern in _SERIAL_GLOBS:
        for device in sorted(glob.glob(f"/dev/{pattern}")):  # noqa: PTH207 - plain strings
            name = device.removeprefix("/dev/")
            path = f"tty:{name[3:]}:pn532" if name.startswith("tty") else device
            status, hint = None, f"if a PN532 is on it, try `dkey tap nfc:{path}`"
            if not os.access(device, os.R_OK | os.W_OK):
                status, hint = LinkReason.DENIED, _DIALOUT
            elif probe:
                try:
                    open_reader(path).close()
                except LinkError as error:
                    status, hint = error.reason, error.hint or _DOCTOR
            findings.append(
                ReaderFinding(
                    link=f"nfc:{path}", name=f"serial port {device}", status=status, hint=hint
                )
            )
    return findings


def _usb_devices() -> list[tuple[int, int, int, int]]:
    """Return vendor, product, bus and address of every USB device; LinkError without libusb."""
    try:
        import usb1  # noqa: PLC0415 - only here for readers on USB

        with usb1.USBContext() as context:
            return [
                (
                    device.getVendorID(),
                    device.getProductID(),
                    device.getBusNumber(),
                    device.getDeviceAddress(),
                )
                for device in context.getDeviceList(skip_on_error=True)
            ]
    except (ImportError, OSError) as exc:
        raise LinkError(
            LinkReason.UNSUPPORTED,
            "libusb does not load",
            hint="for USB readers install libusb 1.0 (Debian: `sudo apt install libusb-1.0-0`)",
        ) from exc


def _usb_findings() -> list[ReaderFinding]:
    from nfc.clf.device import usb_device_map  # noqa: PLC0415

    try:
        seen = _usb_devices()
    except LinkError as error:
        return [ReaderFinding(link="", name=str(error), status=error.reason, hint=error.hint)]
    findings = [ReaderFinding(link="", name="libusb loads")]
    for vendor, product, bus, address in seen:
        driver = usb_device_map.get((vendor, product))
        if driver is None:
            continue
        status, hint = None, None
        node = f"/dev/bus/usb/{bus:03}/{address:03}"
        if Path(node).exists() and not os.access(node, os.R_OK | os.W_OK):
            status, hint = LinkReason.DENIED, _UDEV
        elif driver in ("pn533", "acr122") and _kernel_driver_loaded():
            status, hint = LinkReason.BUSY, _BLACKLIST
        elif _process_runs("pcscd"):
            status, hint = LinkReason.BUSY, _PCSCD
        findings.append(
            ReaderFinding(
                link=f"nfc:usb:{vendor:04x}:{product:04x}",
                name=f"USB reader {vendor:04x}:{product:04x} ({driver})",
                status=status,
                hint=hint,
            )
        )
    return findings


def _circumstances() -> list[ReaderFinding]:
    findings = []
    if shutil.which("stty") is None:
        findings.append(
            ReaderFinding(
                link="",
                name="stty is missing: a serial PN532 stays at 115200 baud",
                hint="install coreutils for 921600 baud",
            )
        )
    else:
        findings.append(ReaderFinding(link="", name="stty is present"))
    if _kernel_driver_loaded():
        findings.append(
            ReaderFinding(
                link="",
                name="kernel module pn533_usb is loaded",
                status=LinkReason.BUSY,
                hint=_BLACKLIST,
            )
        )
    if _process_runs("pcscd"):
        findings.append(
            ReaderFinding(link="", name="pcscd runs", status=LinkReason.BUSY, hint=_PCSCD)
        )
    return findings


def _kernel_driver_loaded() -> bool:
    try:
        modules = Path("/proc/modules").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return any(line.startswith("pn533_usb ") for line in modules.splitlines())


def _process_runs(name: str) -> bool:
    for entry in glob.glob("/proc/[0-9]*/comm"):  # noqa: PTH207 - plain strings
        with contextlib.suppress(OSError):
            if Path(entry).read_text(encoding="utf-8", errors="replace").strip() == name:
                return True
    return False
