"""Stores that tell the user when they cannot keep something; the reader learns of no reason."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from dkey.cli import explain
from dkey.errors import DkeyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkey.access.credential import TrustedReader
    from dkey.agent.card_file import CardFile
    from dkey.agent.credential_file import CredentialFile
    from dkey.crypto.secret import Secret

__all__ = ["ToldCardStore", "ToldStore"]


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except DkeyError as exc:
        click.echo(explain(exc), err=True)
        raise


class ToldStore:
    """A device's store around a credential file."""

    def __init__(self, file: CredentialFile) -> None:
        self._file = file

    def save_kpersistent(self, group_id: bytes, sub_id: bytes, key: Secret) -> None:
        """Keep Kpersistent, or tell why not."""
        with _telling():
            self._file.save_kpersistent(group_id, sub_id, key)

    def save_mailbox(self, data: bytes) -> None:
        """Keep the mailbox content, or tell why not."""
        with _telling():
            self._file.save_mailbox(data)


class ToldCardStore(ToldStore):
    """A card's store around a card file."""

    def __init__(self, file: CardFile) -> None:
        super().__init__(file)
        self._card = file

    def save_reader(self, reader: TrustedReader) -> None:
        """Keep the card's vehicle, or tell why not."""
        with _telling():
            self._card.save_reader(reader)
