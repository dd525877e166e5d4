"""One access transaction in the reader role, with a report of every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dkey.access.exchange import ExchangeRequest, ReaderStatus
from dkey.access.reader import AccessReader
from dkey.bench_reader.steps import Step, StepLog
from dkey.errors import (
    AuthenticationError,
    DkeyError,
    LinkError,
    PolicyRefusal,
    RefusalCode,
    RemoteFault,
    ReplayError,
    StatusError,
)
from dkey.link.driver import run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from dkey.access.enrolled import Flow
    from dkey.access.schedule import SessionKeys
    from dkey.access.session import Session
    from dkey.bench_reader.reader_file import ReaderFile
    from dkey.crypto.entropy import Entropy
    from dkey.crypto.secret import Secret
    from dkey.link.base import Link

__all__ = ["TapReport", "tap", "verdict_of"]


@dataclass(slots=True)
class TapReport:
    """What one tap came to.

    Attributes:
        result: ``ok``, ``refused`` (a key or a policy says no) or ``error``.
        flow: ``standard`` or ``fast`` once authenticated, else None.
        credential: Name of the enrolled credential, hex of an unknown public key, or None.
        code: Refusal code of a refusal.
        steps: Every command with status word and milliseconds.
        failure: The error behind a result that is not ``ok``.
        reads: Data of the mailbox reads that were asked for.
        keys: Session keys, for those who ask for secrets.
        kpersistent: Kpersistent that a standard transaction made, or a fast one used.
    """

    result: str = "error"
    flow: str | None = None
    credential: str | None = None
    code: RefusalCode | None = None
    steps: list[Step] = field(default_factory=list)
    failure: DkeyError | None = None
    reads: tuple[bytes, ...] = ()
    keys: SessionKeys | None = field(default=None, repr=False)
    kpersistent: Secret | None = field(default=None, repr=False)

    def to_json(self, *, show_secrets: bool = False) -> dict[str, object]:
        """Return the object of schema ``dkey.tap/1`` (specs/formats.md §4)."""
        document: dict[str, object] = {
            "schema": "dkey.tap/1",
            "result": self.result,
            "flow": self.flow,
            "credential": self.credential,
            "code": self.code,
            "steps": [
                {
                    "name": step.name,
                    "sw": None if step.sw is None else f"{step.sw:04X}",
                    "ms": round(step.ms, 3),
                }
                for step in self.steps
            ],
        }
        if self.reads:
            document["reads"] = [each.hex() for each in self.reads]
        if show_secrets and self.keys is not None:
            document["keys"] = self.secrets()
        return document

    def secrets(self) -> dict[str, str | None]:
        """Return all keys as hex; None where the flow has no such key."""
        if self.keys is None:
            return {}
        keys, shown = self.keys, self.kpersistent
        found = {
            "exchange_reader": keys.exchange_reader,
            "exchange_device": keys.exchange_device,
            "step_up": keys.step_up,
            "ble": keys.ble,
            "ursk": keys.ursk,
            "kpersistent": shown,
        }
        return {name: None if key is None else key.reveal().hex() for name, key in found.items()}


async def tap(
    link: Link,
    reader_file: ReaderFile,
    *,
    flow: Flow,
    entropy: Entropy,
    clock: Callable[[], float],
    status: ReaderStatus = ReaderStatus.UNSECURE,
    mailbox: ExchangeRequest | None = None,
    read_only: bool = False,
) -> TapReport:
    """Run one transaction over ``link`` and report it; failures are in the report.

    Args:
        link: A device in the field; the caller closes it.
        reader_file: Who the reader is and whom it knows; updated after a standard transaction.
        flow: Which transaction to ask for.
        entropy: Source of ephemeral keys and identifiers.
        clock: Monotonic seconds, for the steps.
        status: What the final EXCHANGE tells the device.
        mailbox: An EXCHANGE to send before the final one, or None.
        read_only: Leave the reader file as it is.
    """
    log = StepLog(clock)
    report = TapReport(steps=log.steps)
    reader = AccessReader(reader_file.identity, reader_file.directory, entropy)
    try:
        session = await run(_transaction(reader, flow, status, mailbox, report), link, log)
        if session.kpersistent is not None and session.credential is not None and not read_only:
            reader_file.save_kpersistent(session.credential.public_key, session.kpersistent)
    except DkeyError as exc:
        report.failure = exc
        report.result, report.code = verdict_of(exc)
        return report
    report.result = "ok"
    return report


def _transaction(
    reader: AccessReader,
    flow: Flow,
    status: ReaderStatus,
    mailbox: ExchangeRequest | None,
    report: TapReport,
) -> Generator[bytes, bytes, Session]:
    session = yield from reader.authenticate(flow)
    report.flow = session.flow.value
    report.keys, report.kpersistent = session.keys, session.kpersistent
    if session.kpersistent is None and session.credential is not None:
        report.kpersistent = session.credential.kpersistent
    if session.credential is None:
        named = session.public_key
        report.credential = None if named is None else named.point.hex()
        yield from session.fail(ReaderStatus.KEY_NOT_FOUND)
        raise PolicyRefusal(
            RefusalCode.KEY_UNKNOWN,
            "the device proved a key that is not in the reader file",
            hint='add it under "credentials" to let it in',
        )
    report.credential = session.credential.name
    if mailbox is not None:
        report.reads = yield from session.exchange(mailbox)
    yield from session.complete(status)
    return session


def verdict_of(exc: DkeyError) -> tuple[str, RefusalCode | None]:
    """Return result and code for a failed transaction."""
    if isinstance(exc, PolicyRefusal):
        return "refused", exc.code
    if isinstance(exc, StatusError):
        missing = exc.command == "SELECT"
        return "refused", (
            RefusalCode.DEVICE_UNSUPPORTED if missing else RefusalCode.NOT_AUTHORISED
        )
    if isinstance(exc, ReplayError):
        return "refused", RefusalCode.REPLAY
    if isinstance(exc, AuthenticationError):
        return "refused", RefusalCode.NOT_AUTHORISED
    if isinstance(exc, RemoteFault | LinkError):
        return "error", RefusalCode.CARD_DAMAGED
    return "error", None
