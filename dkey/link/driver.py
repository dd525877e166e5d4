"""Drives a lock-step procedure over a link: the only place where protocol meets waiting.

A procedure is a generator that yields command APDUs and is sent response APDUs. A link failure is
thrown into it, so that it can clean up, and reaches the caller unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from dkey.errors import LinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from dkey.link.base import Link

__all__ = ["run", "run_blocking"]

T = TypeVar("T")


def run_blocking(
    procedure: Generator[bytes, bytes, T],
    exchange: Callable[[bytes], bytes],
    observe: Callable[[bytes, bytes], None] | None = None,
) -> T:
    """Run ``procedure`` with a blocking ``exchange(command) -> response`` and return its result.

    ``observe`` is called with each command and its response.
    """
    try:
        command = next(procedure)
        while True:
            try:
                response = exchange(command)
            except LinkError as exc:
                command = procedure.throw(exc)
                continue
            if observe is not None:
                observe(command, response)
            command = procedure.send(response)
    except StopIteration as end:
        result: T = end.value
        return result


async def run(
    procedure: Generator[bytes, bytes, T],
    link: Link,
    observe: Callable[[bytes, bytes], None] | None = None,
) -> T:
    """Run ``procedure`` over ``link`` and return its result.

    ``observe`` is called with each command and its response.
    """
    try:
        command = next(procedure)
        while True:
            try:
                await link.send(command)
                response = await link.recv()
            except LinkError as exc:
                command = procedure.throw(exc)
                continue
            if observe is not None:
                observe(command, response)
            command = procedure.send(response)
    except StopIteration as end:
        result: T = end.value
        return result
