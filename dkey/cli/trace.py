"""``dkey trace``: show, convert and redact traces."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dkey.codec.ble import split_sdu
from dkey.errors import DkeyError, WireError
from dkey.trace.iso14443 import FrameNames
from dkey.trace.jsonl import Layer, TraceRecord, encode_header, encode_record, read_records
from dkey.trace.pcapng import encode_preamble, read_packets
from dkey.trace.redact import join_apdus
from dkey.trace.redact import redact as redact_records
from dkey.trace.tracer import TraceFile, packet_blocks, records_of, synthesised

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["cli"]

_SHOW_SCHEMA = "dkey.trace.show/1"
_WIDTH = 100
_MAX_SCRIPT_LINE = 1 << 18

_COMMANDS = {
    (0x00, 0xA4): "SELECT",
    (0x80, 0x80): "AUTH0",
    (0x80, 0xD1): "LOAD CERT",
    (0x80, 0x81): "AUTH1",
    (0x80, 0xC9): "EXCHANGE",
    (0x80, 0x3C): "CONTROL FLOW",
    (0x00, 0xC3): "ENVELOPE",
    (0x00, 0xC0): "GET RESPONSE",
}
_APPLICATIONS = {
    "F0646B65790101": "vehicle access",
    "F0646B65790201": "vehicle pairing",
    "A000000909ACCE5501": "Aliro expedited",
    "A000000909ACCE5502": "Aliro step-up",
}
# ISO/IEC 7816-4 §5.6.
_STATUS = {
    0x9000: "ok",
    0x6400: "failed, nothing changed",
    0x6581: "memory failure",
    0x6700: "wrong length",
    0x6800: "class not supported",
    0x6881: "channel not supported",
    0x6882: "secure messaging not supported",
    0x6883: "last command of the chain expected",
    0x6884: "chaining not supported",
    0x6900: "not allowed",
    0x6982: "security status not satisfied",
    0x6983: "blocked",
    0x6985: "conditions not satisfied",
    0x6986: "not allowed",
    0x6A80: "wrong data",
    0x6A81: "function not supported",
    0x6A82: "application not found",
    0x6A86: "wrong P1 P2",
    0x6A88: "referenced data not found",
    0x6D00: "unknown instruction, or out of sequence",
    0x6E00: "unknown class",
    0x6F00: "failed",
}


class _BadFile(click.ClickException):
    """A file that cannot be used: what, why, and what to try."""

    exit_code = 2

    def __init__(self, what: str, why: str, hint: str) -> None:
        super().__init__(f"{what}\n  why: {why}\n  try: {hint}")


@click.group(name="trace")
def cli() -> None:
    """Show, convert and redact traces (.pcapng, .jsonl).

    Record one with --trace FILE.pcapng on any command that talks to a device.
    """


_IN = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, path_type=Path)


@cli.command()
@click.argument("file", type=_IN)
@click.option("--all", "show_all", is_flag=True, help="Also show synthetic frames.")
@click.option("--json", "as_json", is_flag=True, help=f"One JSON object ({_SHOW_SCHEMA}).")
def show(file: Path, *, show_all: bool, as_json: bool) -> None:
    """Print FILE (.pcapng, .pcap or .jsonl) as a table.

    The columns are: milliseconds since the first record, milliseconds since the line above, who
    sent it (-> reader, <- device), layer, length in bytes, meaning and content.
    """
    records, fault = _read(file)
    rows = list(_rows(records))
    if as_json:
        if fault is not None:
            raise fault
        click.echo(json.dumps({"schema": _SHOW_SCHEMA, "records": [row.to_json() for row in rows]}))
        return
    made_up = sum(row.record.synthetic for row in rows)
    last_ns = start_ns = rows[0].record.t_ns if rows else 0
    click.echo("        ms      +ms     layer  bytes  what")
    for row in rows:
        if row.record.synthetic and not show_all:
            continue
        click.echo(row.to_line(start_ns=start_ns, last_ns=last_ns))
        last_ns = row.record.t_ns
    if made_up and show_all:
        click.echo("* made up from the APDUs, because this link has no frames")
    elif made_up:
        click.echo(f"{made_up} made-up frames not shown, this link has none (--all shows them)")
    if fault is not None:
        raise fault


@cli.command()
@click.argument("source", metavar="IN", type=_IN)
@click.argument("target", metavar="OUT", type=_OUT)
def convert(source: Path, target: Path) -> None:
    """Convert IN to OUT; the suffixes say how.

    IN is .pcapng, .pcap, .jsonl or .txt; OUT is .pcapng, .jsonl or .txt. A .txt file is an APDU
    script: one command APDU in hex a line, without responses and times. A .pcapng has no keys.
    """
    count = _write(source, target, _read_whole(source))
    click.echo(f"{target}: {count}")
    if target.suffix != ".txt":
        click.echo(f"next: dkey trace show {target}")


@cli.command()
@click.argument("source", metavar="IN", type=_IN)
@click.argument("target", metavar="OUT", type=_OUT)
@click.option("--strict", is_flag=True, help="Also cryptograms, public keys and signatures.")
def redact(source: Path, target: Path, *, strict: bool) -> None:
    """Copy IN to OUT with sensitive bytes replaced by zero bytes of the same number.

    Always: keys that were recorded on request. Lengths, status words, times, notes and identifiers
    stay, so OUT is not anonymous.
    """
    count = _write(source, target, redact_records(_read_whole(source), strict=strict))
    click.echo(f"{target}: {count}")
    click.echo(f"next: dkey trace show {target}, then give it away")


# Meaning -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    record: TraceRecord
    name: str
    detail: str = ""
    status: int | None = None

    def to_line(self, *, start_ns: int, last_ns: int) -> str:
        record = self.record
        arrow = {True: "->", False: "<-", None: "  "}[record.from_reader]
        size = "" if record.data is None else str(len(record.data))
        layer = record.layer.value + ("*" if record.synthetic else "")
        head = (
            f"{(record.t_ns - start_ns) / 1e6:10.3f} {(record.t_ns - last_ns) / 1e6:+8.3f}"
            f"  {arrow} {layer:<7} {size:>5}  "
        )
        if record.data is None:
            return (head + self.name).rstrip()
        content = self.detail if record.layer is Layer.APDU else record.data.hex()
        head += f"{self.name:<23}  "
        space = max(_WIDTH - len(head), 8)
        if len(content) > space:
            content = content[: space - 2] + ".."
        return (head + content).rstrip()

    def to_json(self) -> dict[str, object]:
        line: dict[str, object] = {
            "t_ns": self.record.t_ns,
            **json.loads(encode_record(self.record)),
        }
        line["name"] = self.name
        if self.detail:
            line["detail"] = self.detail
        if self.status is not None:
            line["status"] = f"{self.status:04X}"
        return line


def _rows(records: Iterable[TraceRecord]) -> Iterator[_Row]:
    names = FrameNames()
    command = ""
    for record in records:
        data = record.data or b""
        if record.layer is Layer.MESSAGE:
            yield _Row(record=record, name=_message(data))
        elif record.layer is Layer.FRAME:
            kind = names.kind(from_reader=bool(record.from_reader), data=data)
            yield _Row(record=record, name=kind.name)
        elif record.layer is Layer.APDU and record.from_reader:
            command, detail = _command(data)
            yield _Row(record=record, name=command, detail=detail)
        elif record.layer is Layer.APDU:
            yield _response(record, command)
        elif record.layer is Layer.FIELD:
            yield _Row(record=record, name=f"field {record.note}")
        else:
            yield _Row(record=record, name=_printable(record.note or ""))


def _printable(text: str) -> str:
    """Return ``text`` with everything that could steer a terminal written out."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _message(data: bytes) -> str:
    """Return the name of a BLE message by its header (Aliro 1.0 §11.7)."""
    try:
        parsed = split_sdu(data)
    except WireError:
        return "malformed message"
    names = {0: "AP", 1: "UWB", 2: "notification", 3: "supplementary", 4: "pass-through"}
    first = parsed[0]
    label = getattr(first.id, "name", f"{int(first.id):02X}").replace("_", " ").lower()
    more = f" +{len(parsed) - 1}" if len(parsed) > 1 else ""
    return f"{names.get(int(first.type), '?')} {label}{more}"


def _command(apdu: bytes) -> tuple[str, str]:
    if len(apdu) < 4:
        return "command cut short", apdu.hex()
    name = _COMMANDS.get((apdu[0] & 0xEF, apdu[1]))
    if name is None:
        return f"INS {apdu[1]:02X}", f"CLA {apdu[0]:02X}  {_cut(apdu)}"
    if apdu[0] & 0x10:
        return name, "part, more follows"
    detail = ""
    if name == "SELECT" and apdu[2] == 4 and len(apdu) > 5:
        aid = apdu[5 : 5 + apdu[4]].hex().upper()
        detail = f"{_APPLICATIONS.get(aid, 'application')}  {aid}"
    elif name == "CONTROL FLOW":
        detail = _cut(apdu[5:])
    elif name == "AUTH0" and apdu[5:7] == b"\x41\x01" and len(apdu) > 7:
        detail = "fast" if apdu[7] & 1 else "standard"
    return name, detail


def _response(record: TraceRecord, command: str) -> _Row:
    apdu = record.data or b""
    if len(apdu) < 2:
        return _Row(record=record, name="response cut short", detail=apdu.hex())
    status = int.from_bytes(apdu[-2:])
    meaning = _STATUS.get(status, "")
    if status >> 8 == 0x61:
        meaning = f"{status & 0xFF or 256} more bytes wait"
    elif status >> 8 == 0x6C:
        meaning = f"wrong Le, {status & 0xFF or 256} would fit"
    elif status >> 4 == 0x63C:
        meaning = f"wrong, {status & 0xF} tries left"
    detail = f"{status:04X} {meaning}".rstrip()
    if len(apdu) > 2:
        detail += f", {len(apdu) - 2} bytes of data"
    return _Row(record=record, name=command or "response", detail=detail, status=status)


def _cut(data: bytes) -> str:
    text = data.hex()
    return text if len(text) <= 40 else text[:38] + ".."


# Files -------------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[list[TraceRecord], _BadFile | None]:
    """Return the records up to the first damage, APDUs joined from frames, and the damage."""
    records: list[TraceRecord] = []
    fault = None
    try:
        for record in _records(path):
            records.append(record)  # noqa: PERF402 (keeps what precedes the damage)
    except (DkeyError, OSError) as exc:
        hint = (exc.hint if isinstance(exc, DkeyError) else None) or "give a readable file"
        fault = _BadFile(f"cannot read {path}", str(exc), hint)
    if not any(record.layer is Layer.APDU for record in records):
        records = join_apdus(records)
    return records, fault


def _read_whole(path: Path) -> list[TraceRecord]:
    records, fault = _read(path)
    if fault is not None:
        raise fault
    return records


def _records(path: Path) -> Iterator[TraceRecord]:
    with path.open("rb") as stream:
        if path.suffix in (".pcapng", ".pcap"):
            yield from records_of(read_packets(stream))
        elif path.suffix == ".jsonl":
            yield from read_records(stream)
        elif path.suffix == ".txt":
            number = 1
            while line := stream.readline(_MAX_SCRIPT_LINE):
                yield from _script_line(path, line, number)
                number += 1
        else:
            raise click.UsageError(
                f"{path}: unknown suffix {path.suffix!r}; use .pcapng, .pcap, .jsonl or .txt"
            )


def _script_line(path: Path, line: bytes, number: int) -> Iterator[TraceRecord]:
    """Yield the command of one script line; ``#`` begins a comment, blanks do not count."""
    try:
        apdu = bytes.fromhex(line.partition(b"#")[0].decode())
    except ValueError as exc:
        raise _BadFile(
            f"cannot read {path}",
            f"line {number} is not one APDU in hex",
            "write one command APDU a line, such as 00A4040007F0646B6579010100",
        ) from exc
    if apdu:
        yield TraceRecord(t_ns=0, layer=Layer.APDU, from_reader=True, data=apdu)


def _write(source: Path, target: Path, records: list[TraceRecord]) -> str:
    """Write ``records`` to ``target``, mode 0600; return what was written, in words."""
    if target.exists() and target.samefile(source):
        raise click.UsageError("OUT is the file IN; give another name")
    pieces: list[bytes]
    if target.suffix == ".jsonl":
        secrets = any(record.layer is Layer.KEYS for record in records)
        header = encode_header({"interface": "nfc", "secrets": secrets})
        pieces = [header, *map(encode_record, records)]
        what = f"{len(records)} records"
    elif target.suffix == ".pcapng":
        if not any(record.layer is Layer.FRAME for record in records):
            records = list(synthesised(records))
        try:
            blocks = list(packet_blocks(records))
        except ValueError as exc:
            raise _BadFile(
                f"cannot write {target}", str(exc), "convert it to .jsonl instead"
            ) from exc
        pieces = [encode_preamble(interface="nfc"), *blocks]
        what = f"{len(blocks)} packets"
    elif target.suffix == ".txt":
        commands = [
            record.data or b""
            for record in records
            if record.layer is Layer.APDU and record.from_reader
        ]
        pieces = [command.hex().upper().encode() + b"\n" for command in commands]
        what = f"{len(commands)} command APDUs"
    else:
        raise click.UsageError(
            f"{target}: unknown suffix {target.suffix!r}; use .pcapng, .jsonl or .txt"
        )
    file = TraceFile(target)
    try:
        file.append(b"".join(pieces))
    except OSError as exc:
        raise _BadFile(f"cannot write {target}", str(exc), "free some space") from exc
    finally:
        file.close()
    return what
