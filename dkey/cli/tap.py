"""``dkey tap``: one transaction in the reader role."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dkey.access.enrolled import Flow
from dkey.access.exchange import ExchangeRequest, Read, ReaderStatus, Write
from dkey.bench_reader.message_tap import MessageReport, message_tap
from dkey.bench_reader.reader_file import ReaderFile
from dkey.bench_reader.tap import TapReport, tap
from dkey.cli import LINK, REFUSED, USAGE, explain
from dkey.cli.options import Seconds, as_json, file_path, print_json, secrets, trace_option, tracing
from dkey.crypto.entropy import SystemEntropy
from dkey.errors import DkeyError, LinkError, LinkReason, LocalFault
from dkey.link.opener import open_initiator, open_message_initiator

if TYPE_CHECKING:
    from dkey.access.exchange import MailboxOp
    from dkey.trace.tracer import Tracer

__all__ = ["cli"]

_MAILBOX_MAX = 0xFFFF


def _mailbox_op(text: str, *, write: bool) -> MailboxOp:
    offset, _, rest = text.partition(":")
    try:
        if not 0 <= int(offset, 0) <= _MAILBOX_MAX or not (
            write or 0 <= int(rest, 0) <= _MAILBOX_MAX
        ):
            raise ValueError(text)
        return (
            Write(int(offset, 0), bytes.fromhex(rest))
            if write
            else Read(int(offset, 0), int(rest, 0))
        )
    except ValueError as exc:
        shape = "OFFSET:HEX" if write else "OFFSET:LENGTH"
        raise click.UsageError(f"a mailbox option is {shape}, not {text!r}") from exc


@click.command()
@click.argument("link")
@click.option("--reader", "reader", type=file_path, required=True, help="Reader file (JSON).")
@click.option(
    "--flow",
    type=click.Choice([flow.value for flow in Flow]),
    default="auto",
    show_default=True,
    help="Which transaction to ask for.",
)
@click.option(
    "--status",
    type=click.Choice(["secure", "unsecure"]),
    default="unsecure",
    show_default=True,
    help="Lock state that the final EXCHANGE tells the device.",
)
@click.option("--mailbox-read", "reads", multiple=True, metavar="OFFSET:LENGTH")
@click.option("--mailbox-write", "writes", multiple=True, metavar="OFFSET:HEX")
@click.option("--read-only", is_flag=True, help="Do not store Kpersistent in the reader file.")
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(),
    default=15.0,
    show_default=True,
    help="Seconds to wait for a device.",
)
@click.option(
    "--linger",
    "linger_s",
    type=Seconds(),
    default=1.0,
    show_default=True,
    help="Over msg-tcp: seconds of silence after which the session ends.",
)
@trace_option
@secrets
@as_json
@click.pass_context
def cli(
    ctx: click.Context,
    link: str,
    reader: Path,
    flow: str,
    status: str,
    reads: tuple[str, ...],
    writes: tuple[str, ...],
    read_only: bool,
    timeout_s: float,
    linger_s: float,
    trace: Path | None,
    show_secrets: bool,
    as_json: bool,
) -> None:
    """Run one access transaction on LINK as the reader, and show every step.

    LINK is a link string such as nfc:tty:USB0:pn532, nfc:usb or apdu-tcp:127.0.0.1:5000; see
    `dkey links`. Over msg-tcp:127.0.0.1:5000 the transaction runs inside BLE messages, and remote
    requests of the device are granted until it is silent.
    """
    ops = [_mailbox_op(text, write=False) for text in reads]
    ops += [_mailbox_op(text, write=True) for text in writes]
    with tracing(trace, show_secrets=show_secrets) as tracer:
        report = asyncio.run(
            _run(
                link,
                reader,
                tracer,
                flow=Flow(flow),
                status=ReaderStatus[status.upper()],
                mailbox=ExchangeRequest(mailbox=tuple(ops)) if ops else None,
                read_only=read_only,
                timeout_s=timeout_s,
                linger_s=linger_s,
                quiet=as_json,
            )
        )
        if tracer is not None:
            tracer.keys({k: bytes.fromhex(v) for k, v in report.secrets().items() if v})
    if as_json:
        print_json(report.to_json(show_secrets=show_secrets))
    else:
        _print(report, link, show_secrets=show_secrets, stored=not read_only)
    if report.failure is not None and as_json:
        click.echo(explain(report.failure), err=True)
    ctx.exit(_code(report))


async def _run(
    link: str,
    path: Path,
    tracer: Tracer | None,
    *,
    flow: Flow,
    status: ReaderStatus,
    mailbox: ExchangeRequest | None,
    read_only: bool,
    timeout_s: float,
    linger_s: float,
    quiet: bool,
) -> TapReport:
    reader_file = ReaderFile(path)
    initiator = None
    messages = link.startswith("msg-tcp:")
    try:
        opening = open_message_initiator if messages else open_initiator
        initiator = opening(link, tap=tracer)
        if not quiet:
            click.echo(f"waiting for a device on {link}", err=True)
        device = await initiator.sense(timeout_s=timeout_s)
        if device is None:
            raise LinkError(
                LinkReason.TIMEOUT,
                f"no device came within {timeout_s:g} s",
                hint="hold the phone or card on the reader; `dkey doctor` checks the reader",
            )
        run = partial(message_tap, linger_s=linger_s) if messages else tap
        try:
            return await run(
                device,
                reader_file,
                flow=flow,
                entropy=SystemEntropy(),
                clock=time.perf_counter,
                status=status,
                mailbox=mailbox,
                read_only=read_only,
            )
        finally:
            await device.aclose()
    except LinkError as exc:
        return TapReport(failure=exc)
    finally:
        if initiator is not None:
            await initiator.aclose()


def _print(report: TapReport, link: str, *, show_secrets: bool, stored: bool) -> None:
    over_ble = isinstance(report, MessageReport)
    silent = "" if over_ble else "no answer"  # most messages over BLE have no status word
    for step in report.steps:
        status = silent if step.sw is None else f"{step.sw:04X}"
        click.echo(f"  {step.name:<22}{status:<11}{step.ms:9.2f} ms")
    total_ms = sum(step.ms for step in report.steps)
    if report.steps:
        click.echo(f"  {'total':<22}{'':<11}{total_ms:9.2f} ms")
    if isinstance(report, MessageReport) and report.commands:
        click.echo(f"  remote requests: {', '.join(report.commands)}")
    for at, data in enumerate(report.reads):
        click.echo(f"  mailbox read {at + 1}: {data.hex()}")
    if report.failure is not None:
        click.echo(explain(report.failure), err=True)
        code = f" ({report.code})" if report.code else ""
        click.secho(f"{report.result}{code}", fg="red", bold=True)
        return
    click.secho(f"ok: {report.credential} authenticated, {report.flow} flow", fg="green", bold=True)
    if show_secrets:
        for name, value in report.secrets().items():
            click.echo(f"  {name:<16}{value or '-'}")
    if stored and report.flow == Flow.STANDARD.value:
        click.echo(f"next: dkey tap {link} --flow fast … uses the Kpersistent stored now")


def _code(report: TapReport) -> int:
    failure: DkeyError | None = report.failure
    if failure is None:
        return 0
    if isinstance(failure, LinkError):
        return LINK
    return USAGE if isinstance(failure, LocalFault) else REFUSED
