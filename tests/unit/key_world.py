"""Phones with stores of their own, and the command line of `dkey key` for each."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_world import GROUP, READER, RESOLVING
from test_cli_main import Ran, run

from dkey.agent.store import AgentStore, KeyState
from dkey.lifecycle.features import Feature
from dkey.pairing.owner import PairedVehicle
from dkey.testing import SeededEntropy

if TYPE_CHECKING:
    from pathlib import Path

OWNER = "owner@example.org"
FRIENDS = tuple(f"friend{number}@example.org" for number in range(1, 5))


def paired(epoch: int = 1, group: bytes = GROUP) -> PairedVehicle:
    return PairedVehicle(
        group_id=group,
        public_key=READER.public,
        resolving_key=RESOLVING,
        owner_epoch=epoch,
        features=frozenset(Feature),
        key_name="owner-1",
    )


@dataclass
class Told:
    """What one command said."""

    code: int
    object: dict[str, Any]

    @property
    def keys(self) -> dict[str, dict[str, Any]]:
        return {each["account"]: each for each in self.object["keys"]}

    def state(self, account: str) -> str:
        return self.keys[account]["state"]


class Phone:
    """One phone: a store folder and the command line."""

    def __init__(self, folder: Path, account: str) -> None:
        self.folder = folder
        self.account = account
        self.files = folder.parent

    def open(self) -> AgentStore:
        return AgentStore.open(self.folder, entropy=SeededEntropy(random.random()), create=True)

    def pair(self, **how: Any) -> Phone:
        with self.open() as store:
            store.add(paired(**how), store.new_key())
            store.set_state(GROUP, KeyState.SYNCED)
        return self

    def synced(self) -> None:
        with self.open() as store:
            store.set_state(GROUP, KeyState.SYNCED)

    def say(self, *words: object) -> Ran:
        return run("key", *words, "--store", self.folder)

    def key(self, *words: object) -> Told:
        ran = self.say(*words, "--json")
        lines = ran.out.splitlines()
        assert len(lines) == 1, ran
        return Told(ran.code, json.loads(lines[0]))

    def file(self, name: str) -> Path:
        return self.files / f"{self.account.partition('@')[0]}.{name}"


def hand_over(owner: Phone, friend: Phone, *words: object) -> str:
    """Share a key by files, from invitation to receipt; return its id."""
    invitation, request = friend.file("invitation"), friend.file("request")
    answer, receipt = friend.file("answer"), friend.file("receipt")
    offered = owner.key("share", friend.account, "--out", invitation, *words)
    assert offered.code == 0, offered
    asked = friend.key("accept", invitation, "--out", request)
    assert asked.code == 0, asked
    compared = asked.object["share"]["fingerprint"]
    signed = owner.key("share", "--request", request, "--compared", compared, "--out", answer)
    assert signed.code == 0, signed
    taken = friend.key("accept", "--answer", answer, "--out", receipt)
    assert taken.code == 0, taken
    assert owner.key("share", "--request", receipt).code == 0
    return offered.object["share"]["id"]
