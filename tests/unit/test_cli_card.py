"""``dkey card`` in this process: cards and phones on threads of their own."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_cli_device import Device, in_field, leaks, served
from test_cli_main import Ran, explained, run
from test_cli_tap import Torn
from test_cli_vehicle import OUTCOME, Garage

from dkey.access.applet import AppletHost
from dkey.access.device import AccessApplet
from dkey.agent.card_file import CardFile
from dkey.control.touch import Position
from dkey.lifecycle.roles import CardProvenance
from dkey.link.loopback import loopback
from dkey.pairing.card import CardApplet
from dkey.testing import SeededEntropy
from firmware_mock.garage import open_vehicle

if TYPE_CHECKING:
    from dkey.link.base import Link

INITIAL, PURCHASED = CardProvenance.INITIAL, CardProvenance.PURCHASED


def blank(folder: Path, name: str, provenance: CardProvenance = PURCHASED) -> Path:
    path = folder / f"{name}.json"
    CardFile.create(path, provenance, SeededEntropy(f"{folder} {name}"))
    return path


class CardDevice:
    """The device end of a card file, as ``dkey card serve`` builds it."""

    def __init__(self, path: Path) -> None:
        file, entropy = CardFile(path), SeededEntropy("card device")
        self._host = AppletHost(
            [
                AccessApplet(file.credential, entropy, store=file),
                CardApplet(file.credential, file.provenance, entropy, store=file),
            ]
        )

    def answer(self, command: bytes) -> bytes:
        return self._host.answer(command)

    def field_off(self) -> None:
        self._host.field_off()


class CardGarage(Garage):
    """A garage where cards are paired."""

    def pair(self, card: Any, *words: object, owner: Path | None = None, old: str = "") -> Ran:
        device = CardDevice(card) if isinstance(card, Path) else card
        command = ("replace", self.car, old) if old else ("pair", self.car)
        with ExitStack() as fields:
            phone = fields.enter_context(in_field(Device(owner or self.owner)))
            link = fields.enter_context(in_field(device))
            return run("card", *command, "--owner", phone, "--card", link, "--json", *words)

    def tap_card(self, reader: str, card: Path) -> dict[str, Any]:
        with in_field(CardDevice(card)) as link:
            return json.loads(run("vehicle", "tap", self.car, reader, link, "--json").out)

    def cards(self) -> list[dict[str, Any]]:
        ran = run("card", "list", self.car, "--json")
        assert ran.code == 0
        document = json.loads(ran.out)
        assert {*document} == {"schema", "cards"}
        assert document["schema"] == "dkey.cards/1"
        keys = {"id", "name", "provenance", "state", "replaced_by"}
        assert all({*card} == keys for card in document["cards"])
        return document["cards"]


@pytest.fixture
def garage(tmp_path) -> CardGarage:
    return CardGarage(tmp_path)


def checked(ran: Ran) -> dict[str, Any]:
    (line,) = ran.out.splitlines()
    document = json.loads(line)
    assert {*document} == OUTCOME
    assert ran.code == (1 if document["code"] else 0)
    return document


# ---- pair and list ------------------------------------------------------------------------------


def test_no_cards_are_an_empty_list(garage):
    assert garage.cards() == []
    assert "no cards" in run("card", "list", garage.car).out


@pytest.mark.parametrize("provenance", CardProvenance)
def test_a_paired_card_is_listed_opens_and_starts(garage, tmp_path, provenance):
    card = blank(tmp_path, "card", provenance)
    document = checked(garage.pair(card))
    assert (document["action"], document["position"]) == ("ENROL_CARD", "CONSOLE_PAD")
    (listed,) = garage.cards()
    assert (listed["provenance"], listed["state"]) == (provenance.value, "ACTIVE")
    assert listed["name"] in run("card", "list", garage.car).out
    assert garage.tap_card("handle", card)["action"] == "UNLOCK"
    assert garage.tap_card("pad", card)["action"] == "AUTHORISE_START"


def test_pairing_tells_people_what_to_lay_down_and_what_next(garage, tmp_path):
    card = blank(tmp_path, "card")
    with in_field(Device(garage.owner)) as phone, in_field(CardDevice(card)) as link:
        ran = run("card", "pair", garage.car, "--owner", phone, "--card", link)
    assert ran.code == 0
    assert [line.split(" on the pad")[0] for line in ran.err.splitlines()] == [
        "lay the owner's phone",
        "lay the new card",
    ]
    assert "next: dkey card list" in ran.out


@pytest.mark.parametrize(
    ("signal", "code"), [("ignition_on=off", "IGNITION_OFF"), ("speed_kmh=9", "DRIVING")]
)
def test_the_vehicles_state_can_forbid_pairing(garage, tmp_path, signal, code):
    card = blank(tmp_path, "card")
    before = card.read_bytes()
    assert checked(garage.pair(card, "--signal", signal))["code"] == code
    assert garage.cards() == []
    assert card.read_bytes() == before


def test_a_friend_may_not_pair_a_card(garage, tmp_path):
    card, friend = blank(tmp_path, "card"), garage.add("friend")
    before = card.read_bytes()
    assert checked(garage.pair(card, owner=friend))["code"] == "NOT_AUTHORISED"
    assert garage.cards() == []
    assert card.read_bytes() == before


def test_a_third_card_is_refused(garage, tmp_path):
    for name in ("a", "b"):
        assert garage.pair(blank(tmp_path, name)).code == 0
    assert checked(garage.pair(blank(tmp_path, "c")))["code"] == "CARD_LIMIT"
    assert len(garage.cards()) == 2


def test_a_card_that_is_paired_already_is_refused(garage, tmp_path):
    card = blank(tmp_path, "card")
    assert garage.pair(card).code == 0
    assert checked(garage.pair(card))["code"] is not None
    assert len(garage.cards()) == 1


def test_a_card_torn_away_is_not_paired_and_can_be_paired_afterwards(garage, tmp_path):
    card = blank(tmp_path, "card")
    assert checked(garage.pair(Torn(CardDevice(card), 1)))["code"] == "CARD_DAMAGED"
    assert garage.cards() == []
    assert garage.pair(card).code == 0


def test_a_phone_is_no_card(garage, tmp_path):
    friend = garage.add("friend")
    assert checked(garage.pair(Device(friend)))["code"] == "DEVICE_UNSUPPORTED"
    assert garage.cards() == []


def test_a_blank_card_at_the_handle_is_refused(garage, tmp_path):
    assert garage.tap_card("handle", blank(tmp_path, "card"))["code"] == "NOT_AUTHORISED"


def test_nobody_on_the_pad_is_exit_3(garage):
    words = ("--owner", "apdu-tcp:127.0.0.1:9", "--card", "apdu-tcp:127.0.0.1:9")
    ran = run("card", "pair", garage.car, *words, "--timeout", 0.1)
    assert ran.code == 3
    assert explained(ran)


@pytest.mark.parametrize("missing", ["--owner", "--card"])
def test_both_links_are_needed(garage, missing):
    other = {"--owner": "--card", "--card": "--owner"}[missing]
    ran = run("card", "pair", garage.car, other, "apdu-tcp:127.0.0.1:9")
    assert ran.code == 2
    assert missing in ran.err


def test_a_trace_of_a_pairing_has_no_secret(garage, tmp_path):
    card, trace = blank(tmp_path, "card"), tmp_path / "t.pcapng"
    ran = garage.pair(card, "--trace", trace)
    files = [trace.read_bytes(), trace.with_suffix(".jsonl").read_bytes()]
    secrets = {
        bytes.fromhex(json.loads(path.read_text())["private_key"]) for path in (card, garage.owner)
    }
    assert ran.code == 0
    assert leaks(secrets, ran.out, ran.err, *files) == []


# ---- replace ------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_replaced_card_is_out_of_use_and_names_its_successor(garage, tmp_path, by):
    old, new = blank(tmp_path, "old"), blank(tmp_path, "new")
    assert garage.pair(old).code == 0
    (first,) = garage.cards()
    assert checked(garage.pair(new, old=first[by]))["action"] == "ENROL_CARD"
    was, now = garage.cards()
    assert was["state"] != "ACTIVE"
    assert was["replaced_by"] == now["id"]
    assert now["state"] == "ACTIVE"
    assert garage.tap_card("handle", old)["code"] == "CARD_BLOCKED"
    assert garage.tap_card("handle", new)["action"] == "UNLOCK"
    assert f"replaced by {now['id']}" in run("card", "list", garage.car).out


def test_a_card_that_the_vehicle_does_not_have_cannot_be_replaced(garage):
    links = ("--owner", "apdu-tcp:127.0.0.1:9", "--card", "apdu-tcp:127.0.0.1:9")
    ran = run("card", "replace", garage.car, "nope", *links)
    assert ran.code == 2
    assert "'nope'" in explained(ran)[0]
    assert "dkey card list" in explained(ran)[-1]


def test_a_phone_cannot_be_replaced_by_a_card(garage):
    links = ("--owner", "apdu-tcp:127.0.0.1:9", "--card", "apdu-tcp:127.0.0.1:9")
    assert run("card", "replace", garage.car, "owner", *links).code == 2


def test_a_replacement_that_is_torn_away_leaves_the_old_card_in_use(garage, tmp_path):
    old, new = blank(tmp_path, "old"), blank(tmp_path, "new")
    garage.pair(old)
    (first,) = garage.cards()
    assert checked(garage.pair(Torn(CardDevice(new), 1), old=first["name"]))["code"]
    assert garage.cards() == [first]
    assert garage.tap_card("handle", old)["action"] == "UNLOCK"


# ---- serve --------------------------------------------------------------------------------------


async def away(link: Link) -> None:
    """A reader that leaves at once."""


@pytest.mark.parametrize("words", [[], ["--provenance", "initial"]])
def test_serve_makes_a_blank_card_when_there_is_none(tmp_path, words):
    path = tmp_path / "card.json"
    ran, _ = served(away, "card", "serve", "apdu-tcp:127.0.0.1:0", "--card", path, "--once", *words)
    assert ran.code == 0
    assert ran.out.split()[0] == "listening"
    assert "new blank card" in ran.err
    assert CardFile(path).provenance is (INITIAL if words else PURCHASED)
    assert path.stat().st_mode & 0o777 == 0o600


def test_serve_keeps_a_card_that_is_there(tmp_path):
    path = blank(tmp_path, "card", INITIAL)
    before = path.read_bytes()
    ran, _ = served(away, "card", "serve", "apdu-tcp:127.0.0.1:0", "--card", path, "--once")
    assert (ran.code, ran.err) == (0, "")
    assert path.read_bytes() == before


@pytest.mark.parametrize("words", [[], ["--read-only"]])
def test_a_card_that_is_served_is_paired_in_its_file_unless_read_only(garage, tmp_path, words):
    path = blank(tmp_path, "card")
    before = path.read_bytes()

    async def pairing(link: Link) -> Any:
        vehicle = open_vehicle(garage.car)
        try:
            vehicle.body.ignition_on = True
            vehicle.open_card_window()
            owner = loopback(Device(garage.owner))
            assert (await vehicle.tap(Position.CONSOLE_PAD, owner)).code is None
            await owner.aclose()
            return await vehicle.tap(Position.CONSOLE_PAD, link)
        finally:
            vehicle.close()

    ran, outcome = served(
        pairing, "card", "serve", "apdu-tcp:127.0.0.1:0", "--card", path, "--once", *words
    )
    assert ran.code == 0
    assert outcome.code is None
    assert (path.read_bytes() == before) is bool(words)
    assert len(garage.cards()) == 1


def test_a_provenance_that_is_not_there_is_a_usage_error(tmp_path):
    words = ("--card", tmp_path / "c.json", "--provenance", "stolen")
    assert run("card", "serve", "apdu-tcp:127.0.0.1:0", *words).code == 2
    assert not (tmp_path / "c.json").exists()
