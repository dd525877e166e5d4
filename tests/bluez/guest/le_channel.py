"""An LE credit-based channel of the Linux kernel, opened by its C interface.

CPython before 3.14 cannot say that an address is an LE one, so bind and connect go through ctypes.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

__all__ = ["open_channel"]

_AF_BLUETOOTH, _L2CAP = 31, 0
_SOL_BLUETOOTH, _BT_RCVMTU = 274, 13
_LE_PUBLIC, _LE_RANDOM = 1, 2
_ANY = "00:00:00:00:00:00"


def open_channel(address: str, spsm: int, *, mtu: int = 2048, timeout_s: int = 10) -> socket.socket:
    """Connect to a random ``address``, on the link that bluetoothd holds already.

    Raises:
        OSError: the kernel's reason.
    """
    channel = socket.socket(_AF_BLUETOOTH, socket.SOCK_SEQPACKET, _L2CAP)
    try:
        # The LE address type of the local end is what makes this an LE channel.
        _call("bind", channel, _address(_ANY, 0, _LE_PUBLIC))
        channel.setsockopt(_SOL_BLUETOOTH, _BT_RCVMTU, struct.pack("<H", mtu))
        until = struct.pack("ll", timeout_s, 0)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, until)
        _call("connect", channel, _address(address, spsm, _LE_RANDOM))
        # Never recv() blocking: since 6.1.70 the kernel sleeps there with the socket locked, and
        # what arrives waits for that lock. A timeout of Python's makes it poll() before recv().
        channel.settimeout(timeout_s)
    except BaseException:
        channel.close()
        raise
    return channel


def _address(address: str, psm: int, kind: int) -> bytes:
    # struct sockaddr_l2: family, psm, bdaddr (little endian), cid, bdaddr_type, padding
    octets = bytes.fromhex(address.replace(":", ""))[::-1]
    return struct.pack("<HH6sHBx", _AF_BLUETOOTH, psm, octets, 0, kind)


def _call(name: str, channel: socket.socket, where: bytes) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(channel.fileno(), where, len(where)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
