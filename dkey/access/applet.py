"""The device's APDU front: chaining, SELECT, and one applet for each application identifier."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

from dkey.codec.apdu import SW, Assembler, Command, Response, Splitter
from dkey.errors import DkeyError, WireError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Applet", "AppletHost"]

log = logging.getLogger(__name__)
_SELECT: Final = 0xA4
_GET_RESPONSE: Final = 0xC0


class Applet(Protocol):
    """One application on a device.

    Attributes:
        aid: Its application identifier.
    """

    aid: bytes

    def select(self) -> Response:
        """Begin anew and return the SELECT response."""

    def command(self, command: Command) -> Response:
        """Answer one whole command. Never raises; a failure is an error status and no data."""

    def fail(self) -> None:
        """A malformed command arrived: run the failure process without an answer of one's own."""

    def deselect(self) -> None:
        """The transaction is over: forget its keys."""


class AppletHost:
    """Answers command APDUs for a set of applets (a Responder of :mod:`dkey.link.base`).

    Malformed APDUs, broken chains and unexpected GET RESPONSE get an error status without data,
    and the selected applet forgets its keys.
    """

    def __init__(self, applets: Iterable[Applet]) -> None:
        self._applets = {applet.aid: applet for applet in applets}
        self._selected: Applet | None = None
        self._assembler = Assembler()
        self._splitter = Splitter()

    def answer(self, command: bytes) -> bytes:
        """Return the response APDU for one command APDU."""
        try:
            parsed = Command.parse(command)
            if parsed.ins == _GET_RESPONSE and self._splitter.pending:
                return self._splitter.next(parsed.le).to_bytes()
            self._splitter.reset()
            whole = self._assembler.feed(parsed)
        except WireError as exc:
            log.debug("malformed command: %s", exc)
            return self._refuse(SW.WRONG_LENGTH)
        if whole is None:
            return Response().to_bytes()
        return self._splitter.first(self._dispatch(whole), whole.le).to_bytes()

    def field_off(self) -> None:
        """The field ended: forget everything about the transaction."""
        self._assembler.reset()
        self._splitter.reset()
        if self._selected is not None:
            self._selected.deselect()
        self._selected = None

    def _dispatch(self, command: Command) -> Response:
        if command.cla == 0x00 and command.ins == _SELECT:
            return self._select(command)
        if self._selected is None:
            return Response(sw=SW.INS_UNKNOWN)
        return self._selected.command(command)

    def _select(self, command: Command) -> Response:
        if self._selected is not None:
            self._selected.deselect()
        self._selected = None
        if (command.p1, command.p2) != (0x04, 0x00):
            return Response(sw=SW.WRONG_P1P2)
        applet = self._applets.get(command.data)
        if applet is None:
            return Response(sw=SW.NOT_FOUND)
        self._selected = applet
        return applet.select()

    def _refuse(self, status: SW) -> bytes:
        self._assembler.reset()
        self._splitter.reset()
        if self._selected is not None:
            self._selected.fail()
        return Response(sw=status).to_bytes()


def quiet(exc: DkeyError) -> str:
    """Return what a log may say about a failure: its class and clause, never its data."""
    return f"{type(exc).__name__} [{exc.clause or 'no clause'}]"
