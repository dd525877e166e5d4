"""Drives a lock-step procedure over a link: the only place where protocol meets waiting.

A procedure is a generator that yields command APDUs and is sent response APDUs. A link failure is
thrown into it, so that it can clean up, and reaches the caller unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from dkey.errors import LinkError
from dkey.link.base import BlockingLink

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from dkey.link.base import Link

__all__ = ["Observer", "run", "run_blocking"]

T = TypeVar("T")


class Observer(Protocol):
    """Is told of every command and response; may be called from a link's worker thread."""

    def sent(self, command: bytes) -> None:
        """A command is about to leave."""

    def received(self, response: bytes) -> None:
        """Its response has come."""


def run_blocking(
    procedure: Generator[bytes, bytes, T],
    exchange: Callable[[bytes], bytes],
    observer: Observer | None = None,
) -> T:
    """Run ``procedure`` with a blocking ``exchange(command) -> response`` and return its result."""
    try:
        command = next(procedure)
        while True:
            if observer is not None:
                observer.sent(command)
            try:
                response = exchange(command)
            except LinkError as exc:
                command = procedure.throw(exc)
                continue
            if observer is not None:
                observer.received(response)
            command = procedure.send(response)
    except StopIteration as end:
        result: T = end.value
        return result


async def run(
    procedure: Generator[bytes, bytes, T], link: Link, observer: Observer | None = None
) -> T:
    """Run ``procedure`` over ``link`` and return its result.

    A link whose driver blocks runs the whole procedure on its own thread, so that a transaction
    costs one change of threads and not two for each command.
    """
    if isinstance(link, BlockingLink):
        return await link.run_blocking(lambda exchange: run_blocking(procedure, exchange, observer))
    try:
        command = next(procedure)
        while True:
            if observer is not None:
                observer.sent(command)
            try:
                await link.send(command)
                response = await link.recv()
            except LinkError as exc:
                command = procedure.throw(exc)
                continue
            if observer is not None:
                observer.received(response)
            command = procedure.send(response)
    except StopIteration as end:
        result: T = end.value
        return result
