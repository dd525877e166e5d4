"""Writes what a link carries to FILE.pcapng and, with the same times, to FILE.jsonl.

Links without frames (TCP, loopback, PC/SC) report APDUs only. So that Wireshark still has something
to dissect, the ISO 14443 frames that would have carried them are made up and marked synthetic: in
the JSONL as ``"synthetic": true``, in the pcapng as a packet comment.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import TYPE_CHECKING, Self

from dkey.errors import LocalFault
from dkey.trace.iso14443 import SHORT_FRAMES, FrameKind, FrameNames, FrameSynthesis
from dkey.trace.jsonl import Layer, TraceRecord, encode_header, encode_record
from dkey.trace.pcapng import (
    LINKTYPE_ISO_14443,
    LINKTYPE_MESSAGE,
    Event,
    Packet,
    crc_a,
    encode_event,
    encode_packet,
    encode_preamble,
    parse_event,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

__all__ = [
    "FrameKind",
    "FrameNames",
    "FrameSynthesis",
    "TraceFile",
    "Tracer",
    "packet_blocks",
    "records_of",
    "synthesised",
]

_LOGGER = logging.getLogger(__name__)
_PACKETS = (Layer.FRAME, Layer.FIELD, Layer.MESSAGE)
_MARK = "dkey: synthetic frame"
_MAX_NOTE = 4000


# Synthetic frames --------------------------------------------------------------------------------


def synthesised(records: Iterable[TraceRecord]) -> Iterator[TraceRecord]:
    """Yield ``records`` with synthetic frames before each APDU; for traces without frames."""
    synthesis = FrameSynthesis()
    field_on = False
    for record in records:
        if record.layer is Layer.FIELD:
            field_on = record.note == "on"
            synthesis.restart()
        elif record.layer is Layer.APDU:
            if not field_on:
                field_on = True
                yield TraceRecord(t_ns=record.t_ns, layer=Layer.FIELD, note="on", synthetic=True)
            yield from _carriers(synthesis, record)
        yield record


def _carriers(synthesis: FrameSynthesis, record: TraceRecord) -> Iterator[TraceRecord]:
    frames = synthesis.frames(from_reader=bool(record.from_reader), apdu=record.data or b"")
    for from_reader, frame in frames:
        yield TraceRecord(
            t_ns=record.t_ns,
            layer=Layer.FRAME,
            from_reader=from_reader,
            data=frame,
            synthetic=True,
        )


# Records <-> packets -----------------------------------------------------------------------------


def packet_blocks(records: Iterable[TraceRecord]) -> Iterator[bytes]:
    """Yield one pcapng packet block for each frame and field record.

    Notes become comments on the next packet; APDUs and keys have no place in a pcapng.

    Raises:
        ValueError: A frame is longer than 65535 bytes.
    """
    comments: list[str] = []
    for record in records:
        if record.layer is Layer.NOTE:
            comments.append(record.note or "")
        elif record.layer in _PACKETS:
            yield _packet_block(record, comments)
            comments = []


def _packet_block(record: TraceRecord, comments: list[str]) -> bytes:
    if record.layer is Layer.MESSAGE:
        body = bytes((bool(record.from_reader),)) + (record.data or b"")
        return encode_packet(t_ns=record.t_ns, data=body, comments=comments, interface=1)
    if record.layer is Layer.FIELD:
        event = Event.FIELD_ON if record.note == "on" else Event.FIELD_OFF
    else:
        event = Event.READER_NO_CRC if record.from_reader else Event.DEVICE_NO_CRC
    data = record.data or b""
    if record.from_reader and len(data) == 1 and data not in SHORT_FRAMES:
        # Wireshark takes every single byte of a reader for a short frame; with its CRC back, an
        # R-block or S(DESELECT) is told apart.
        event, data = Event.READER, data + crc_a(data)
    return encode_packet(
        t_ns=record.t_ns,
        data=encode_event(event, data),
        comments=[*comments, _MARK] if record.synthetic else comments,
    )


def records_of(packets: Iterable[Packet]) -> Iterator[TraceRecord]:
    """Yield the records that ISO 14443 and message packets stand for; others are passed over.

    Raises:
        WireError: A packet has no valid ISO 14443 pseudo header.
    """
    for packet in packets:
        for comment in packet.comments:
            if comment != _MARK:
                yield TraceRecord(t_ns=packet.t_ns, layer=Layer.NOTE, note=comment)
        if packet.link_type == LINKTYPE_MESSAGE and packet.data:
            yield TraceRecord(
                t_ns=packet.t_ns,
                layer=Layer.MESSAGE,
                from_reader=bool(packet.data[0]),
                data=packet.data[1:],
            )
        if packet.link_type != LINKTYPE_ISO_14443:
            continue
        event, frame = parse_event(packet.data)
        synthetic = _MARK in packet.comments
        if event in (Event.FIELD_ON, Event.FIELD_OFF):
            note = "on" if event is Event.FIELD_ON else "off"
            yield TraceRecord(t_ns=packet.t_ns, layer=Layer.FIELD, note=note, synthetic=synthetic)
        else:
            yield TraceRecord(
                t_ns=packet.t_ns,
                layer=Layer.FRAME,
                from_reader=event in (Event.READER_NO_CRC, Event.READER),
                data=frame,
                synthetic=synthetic,
            )


# Files -------------------------------------------------------------------------------------------


class TraceFile:
    """A file of mode 0600 that holds whole appended pieces only.

    Each piece is handed to the operating system at once, so a crash of this program loses none; a
    piece that does not fit (disk full) is taken back.
    """

    def __init__(self, path: Path) -> None:
        """Create or empty ``path``.

        Raises:
            LocalFault: The file cannot be created or made private.
        """
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(self._fd, 0o600)
                os.ftruncate(self._fd, 0)
            except OSError:
                os.close(self._fd)
                raise
        except OSError as exc:
            raise LocalFault(
                f"cannot write {path}: {exc.strerror}",
                hint="name a file of your own in a folder that you may write",
            ) from exc
        self._size = 0

    def append(self, piece: bytes) -> None:
        """Append ``piece`` whole, or raise OSError and leave the file as it was."""
        try:
            done = 0
            while done < len(piece):
                done += os.write(self._fd, piece[done:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
                os.lseek(self._fd, self._size, os.SEEK_SET)
            raise
        self._size += done

    def close(self) -> None:
        """Close the file. Called once."""
        os.close(self._fd)


class Tracer:
    """A :class:`~dkey.link.base.FrameTap` that writes a trace; usable as a context manager.

    Attributes:
        pcapng_path: FILE.pcapng: frames, field and notes (as comments), for Wireshark.
        jsonl_path: FILE.jsonl: the same, and APDUs and keys.
        failure: Why writing stopped, such as a full disk; None while all is well.
    """

    def __init__(
        self, path: Path, *, clock_ns: Callable[[], int], show_secrets: bool = False
    ) -> None:
        """Create both files, mode 0600; what they held before is lost.

        Args:
            path: FILE, FILE.pcapng or FILE.jsonl.
            clock_ns: Nanoseconds since the Unix epoch. A step back is held, so times never fall.
            show_secrets: Whether :meth:`keys` writes anything.

        Raises:
            LocalFault: A file cannot be created.
        """
        stem = path.with_suffix("") if path.suffix in (".pcapng", ".jsonl") else path
        self.pcapng_path = stem.with_name(stem.name + ".pcapng")
        self.jsonl_path = stem.with_name(stem.name + ".jsonl")
        self.failure: str | None = None
        self._clock_ns = clock_ns
        self._show_secrets = show_secrets
        self._lock = threading.Lock()  # frames come from a reader's thread, notes from the program
        self._closed = False
        self._last_ns = 0
        self._has_frames = False
        self._field_on = False
        self._synthesis = FrameSynthesis()
        self._notes: list[TraceRecord] = []
        self._pcapng = TraceFile(self.pcapng_path)
        try:
            self._jsonl = TraceFile(self.jsonl_path)
        except LocalFault:
            self._pcapng.close()
            raise
        self._append(self._pcapng, encode_preamble(interface="nfc"))
        self._append(self._jsonl, encode_header({"interface": "nfc", "secrets": show_secrets}))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close both files; what comes later is dropped. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._pcapng.close()
                self._jsonl.close()

    def frame(self, *, from_reader: bool, data: bytes) -> None:
        """Write one ISO 14443 frame without its CRC; from now on APDUs are not turned into frames.

        A link that has frames reports the activation before the first APDU.
        """
        with self._lock:
            self._has_frames = True
            self._write(
                TraceRecord(
                    t_ns=self._now(), layer=Layer.FRAME, from_reader=from_reader, data=bytes(data)
                )
            )

    def field(self, *, on: bool) -> None:
        """Write that the field went on or off."""
        with self._lock:
            self._field_on = on
            self._synthesis.restart()
            note = "on" if on else "off"
            self._write(TraceRecord(t_ns=self._now(), layer=Layer.FIELD, note=note))

    def apdu(self, *, from_reader: bool, data: bytes) -> None:
        """Write one whole APDU, and synthetic frames for it on a link that reports none."""
        with self._lock:
            record = TraceRecord(
                t_ns=self._now(), layer=Layer.APDU, from_reader=from_reader, data=bytes(data)
            )
            if not self._has_frames:
                if not self._field_on:
                    self._field_on = True
                    self._write(
                        TraceRecord(t_ns=record.t_ns, layer=Layer.FIELD, note="on", synthetic=True)
                    )
                for carrier in _carriers(self._synthesis, record):
                    self._write(carrier)
            self._write(record)

    def message(self, *, from_reader: bool, data: bytes) -> None:
        """Write one whole BLE message."""
        with self._lock:
            self._write(
                TraceRecord(
                    t_ns=self._now(), layer=Layer.MESSAGE, from_reader=from_reader, data=bytes(data)
                )
            )

    def note(self, text: str) -> None:
        """Write a remark, at most 4000 characters of it; never put a secret into one."""
        clean = text[:_MAX_NOTE].encode("utf-8", "replace").decode()
        with self._lock:
            self._write(TraceRecord(t_ns=self._now(), layer=Layer.NOTE, note=clean))

    def keys(self, keys: Mapping[str, bytes]) -> None:
        """Write secrets by name to the JSONL, if and only if ``show_secrets`` was given."""
        if not self._show_secrets:
            return
        with self._lock:
            t_ns = self._now()
            for name, key in keys.items():
                self._write(TraceRecord(t_ns=t_ns, layer=Layer.KEYS, data=bytes(key), note=name))

    def _now(self) -> int:
        self._last_ns = max(self._last_ns, self._clock_ns())
        return self._last_ns

    def _write(self, record: TraceRecord) -> None:
        if record.layer is Layer.NOTE:
            self._notes.append(record)  # a comment needs a packet to stand on
            del self._notes[:-20]  # all of them fit one block
        elif record.layer in _PACKETS:
            try:
                blocks = list(packet_blocks([*self._notes, record]))
            except ValueError as exc:
                _LOGGER.warning("a frame is missing in %s: %s", self.pcapng_path, exc)
                return
            self._notes.clear()
            self._append(self._pcapng, b"".join(blocks))
        self._append(self._jsonl, encode_record(record))

    def _append(self, file: TraceFile, piece: bytes) -> None:
        if self._closed or self.failure is not None:
            return
        try:
            file.append(piece)
        except OSError as exc:
            # A tap must not raise: the transaction matters more than its trace.
            self.failure = f"the trace stopped: {exc.strerror}"
            _LOGGER.warning("%s (%s)", self.failure, self.pcapng_path)
