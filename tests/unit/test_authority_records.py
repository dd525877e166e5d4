"""Audit log, notices and accounts of the authority, on a file of their own."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from dkey.authority.accounts import Accounts, Purpose, UnknownError
from dkey.authority.audit import RETENTION_S, Audit, Basis, GoneReason
from dkey.authority.notifications import Channel, Notices, Reach, RecordingPort, Topic
from dkey.authority.outage import Outage
from dkey.authority.store_schema import EMPTY_LAYOUT
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode, StoreError
from dkey.lifecycle.durable import DurableFile
from dkey.testing import SeededEntropy

CAR = bytes(16)
NOW = 1_800_000_000
REACH = Reach(account="a@example.org", sms="+82 10", app=True, offers=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "authority.db"


@pytest.fixture
def file(path):
    DurableFile.create(path, EMPTY_LAYOUT, lambda f: f.put("authority", 1, NOW, NOW, None))
    file = DurableFile.open(path, EMPTY_LAYOUT)
    yield file
    file.close()


@pytest.fixture
def audit(file):
    return Audit(file)


def add(file, audit, **how):
    with file.transaction():
        return audit.append(**{"at_s": NOW, "actor": "ann", "action": "Pause", **how})


# --- audit ---------------------------------------------------------------------------------------


def test_entries_are_numbered_from_one(file, audit):
    assert [add(file, audit), add(file, audit)] == [1, 2]


def test_an_entry_older_than_six_months_is_purged_and_one_of_exactly_six_months_stays(file, audit):
    add(file, audit, at_s=NOW - RETENTION_S - 1)
    add(file, audit, at_s=NOW - RETENTION_S)
    with file.transaction():
        assert audit.purge(NOW) == 1
    assert [entry.number for entry in audit.entries()] == [2]
    assert audit.gone() == [(1, NOW, GoneReason.RETENTION)]


def test_six_months_are_183_days():
    assert RETENTION_S == 183 * 86_400


def test_a_dispute_about_a_person_holds_every_entry_of_that_person(file, audit):
    add(file, audit, at_s=1, actor="ann")
    add(file, audit, at_s=1, actor="bob", subject="ann")
    add(file, audit, at_s=1, actor="bob")
    with file.transaction():
        number = audit.open_dispute(NOW, "a bill", person="ann")
        audit.purge(NOW)
    assert [entry.number for entry in audit.entries()] == [1, 2]
    with file.transaction():
        assert audit.end_dispute(number, NOW)
        audit.purge(NOW)
    assert audit.entries() == []


def test_a_dispute_about_a_vehicle_holds_the_entries_of_that_vehicle(file, audit):
    add(file, audit, at_s=1, vehicle=CAR)
    add(file, audit, at_s=1, vehicle=bytes(15) + b"\1")
    with file.transaction():
        audit.open_dispute(NOW, "a theft", vehicle=CAR)
        audit.purge(NOW)
    assert [entry.number for entry in audit.entries()] == [1]


def test_withdrawing_a_consent_removes_what_rests_on_it_and_nothing_else(file, audit):
    add(file, audit, basis=Basis.THIRD_PARTY)
    add(file, audit)
    add(file, audit, actor="bob", basis=Basis.THIRD_PARTY)
    with file.transaction():
        assert audit.withdraw_consent("ann", Basis.THIRD_PARTY, NOW) == 1
    assert [entry.number for entry in audit.entries()] == [2, 3]


def test_numbers_go_on_after_the_newest_entry_went(file, audit):
    add(file, audit)
    with file.transaction():
        audit.erase("ann", NOW)
    assert add(file, audit) == 2


def test_an_export_holds_what_a_person_did_and_what_was_done_about_that_person(file, audit):
    add(file, audit, actor="ann")
    add(file, audit, actor="bob", subject="ann")
    add(file, audit, actor="bob")
    assert [entry.number for entry in audit.export("ann")] == [1, 2]


def test_an_entry_cannot_be_changed_or_removed_without_a_reason(file, audit, path):
    add(file, audit)
    file.close()
    db = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute("UPDATE audit SET actor = 'eve'")
    with pytest.raises(sqlite3.IntegrityError, match="reason"):
        db.execute("DELETE FROM audit")
    db.close()


def test_a_missing_entry_without_a_reason_keeps_the_store_from_opening(file, audit, path):
    add(file, audit)
    add(file, audit)
    file.close()
    db = sqlite3.connect(path, isolation_level=None)
    sql = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'audit_no_delete'").fetchone()[0]
    db.execute("DROP TRIGGER audit_no_delete")
    db.execute("DELETE FROM audit WHERE number = 1")
    db.execute(sql)
    db.close()
    with pytest.raises(StoreError, match="rows are missing"):
        DurableFile.open(path, EMPTY_LAYOUT)


# --- notices -------------------------------------------------------------------------------------


def test_a_notice_that_a_pause_ends_goes_out_on_two_channels(file):
    notices = Notices(file, RecordingPort())
    with file.transaction():
        notices.send("ann", REACH, Topic.PAUSE_ENDING, "in 7 days", at_s=NOW, vehicle=CAR)
    assert [(n.channel, n.delivered) for n in notices.of("ann")] == [
        (Channel.HEAD_UNIT, True),
        (Channel.SMS, True),
    ]


def test_old_notices_go_up_to_one_that_a_dispute_holds(file, audit):
    notices = Notices(file, RecordingPort())
    with file.transaction():
        for recipient in ("ann", "bob", "ann"):
            notices.send(recipient, REACH, Topic.OTHER, "x", at_s=NOW)
        number = audit.open_dispute(NOW, "a bill", person="bob")
        notices.purge(NOW + 1)
    assert [len(notices.of(each)) for each in ("ann", "bob")] == [2, 2]
    with file.transaction():
        audit.end_dispute(number, NOW)
        notices.purge(NOW)
    assert len(notices.of("bob")) == 2
    with file.transaction():
        notices.purge(NOW + 1)
    assert notices.of("ann") == notices.of("bob") == []


def test_a_store_opens_after_its_old_notices_went(file, path):
    notices = Notices(file, RecordingPort())
    with file.transaction():
        notices.send("ann", REACH, Topic.OTHER, "x", at_s=NOW)
        notices.send("ann", REACH, Topic.OTHER, "y", at_s=NOW + 10)
        notices.purge(NOW + 1)
    file.close()
    with closing(DurableFile.open(path, EMPTY_LAYOUT)) as again:
        assert [each.purpose for each in Notices(again, RecordingPort()).of("ann")] == ["y", "y"]


def test_results_of_an_outage_go_up_to_a_command_that_waits(file):
    outage = Outage(file)
    with file.transaction():
        file.put("vehicle", CAR, "vin", "KR", "DK1", bytes(65), bytes(32), 0, NOW)
        for _ in range(2):
            outage.wait(CAR, b"command", NOW)
        first, _ = outage.queue()
        outage.done(first, NOW, code=None, text="done")
        outage.purge(NOW + 1)
    assert [each.number for each in outage.queue()] == [2]


def test_a_failed_notice_is_recorded_as_not_delivered(file):
    notices = Notices(file, RecordingPort(broken=[Channel.SMS]))
    with file.transaction():
        notices.send("ann", REACH, Topic.PROVIDER_SHARE, "a wash", at_s=NOW)
    assert {n.channel: n.delivered for n in notices.of("ann")} == {
        Channel.APP_PUSH: True,
        Channel.SMS: False,
    }


@pytest.mark.parametrize("kind", [kind for kind in Topic if kind is not Topic.OFFER])
def test_a_security_notice_cannot_be_switched_off(file, kind):
    port = RecordingPort()
    with file.transaction():
        Notices(file, port).send("ann", REACH, kind, "something", at_s=NOW)
    assert port.sent


def test_an_offer_goes_only_to_who_wants_it(file):
    port = RecordingPort()
    with file.transaction():
        Notices(file, port).send("ann", REACH, Topic.OFFER, "a wash for less", at_s=NOW)
    assert port.sent == []


# --- accounts ------------------------------------------------------------------------------------


@pytest.fixture
def accounts(file):
    return Accounts(file)


def join(file, accounts, account="ann@example.org", token="t" * 64):
    with file.transaction():
        return accounts.register(
            account,
            token=Secret(token.encode()),
            entropy=SeededEntropy(account),
            now_s=NOW,
            sms=None,
            app=True,
            offers=True,
        )


def test_only_the_token_of_an_account_authenticates_it(file, accounts):
    join(file, accounts)
    assert accounts.authenticates("ann@example.org", "t" * 64)
    assert not accounts.authenticates("ann@example.org", "u" * 64)
    assert not accounts.authenticates("bob@example.org", "t" * 64)


def test_a_token_does_not_lie_in_the_file(file, accounts, path):
    join(file, accounts, token="deadbeef" * 8)
    file.close()
    stored = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert b"deadbeef" not in stored


def test_a_closed_account_opens_nothing_and_its_name_stays_taken(file, accounts):
    person = join(file, accounts)
    with file.transaction():
        accounts.close(person)
    assert not accounts.authenticates("ann@example.org", "t" * 64)
    with pytest.raises(PolicyRefusal) as refused:
        join(file, accounts)
    assert refused.value.code is RefusalCode.ALREADY_LINKED


@pytest.mark.parametrize("name", ["", "ann", "\u00e4nn@example.org", "x@person.invalid", "a b@c"])
def test_what_is_no_account_id_is_refused(file, accounts, name):
    with pytest.raises(LocalFault):
        join(file, accounts, name)


def test_another_spelling_is_the_same_account(file, accounts):
    person = join(file, accounts)
    assert accounts.person("ANN@Example.org") == person
    with pytest.raises(PolicyRefusal) as refused:
        join(file, accounts, "Ann@example.org")
    assert refused.value.code is RefusalCode.ALREADY_LINKED


def test_an_erased_account_is_nowhere_in_the_file(file, accounts, path):
    person = join(file, accounts)
    with file.transaction():
        accounts.erase(person)
    with pytest.raises(UnknownError):
        accounts.person("ann@example.org")
    assert accounts.account(person) == person
    assert file.rows("SELECT account FROM account") == [(None,)]


def test_a_consent_counts_until_it_is_withdrawn(file, accounts):
    person = join(file, accounts)
    with pytest.raises(PolicyRefusal) as refused:
        accounts.check_consents(person)
    assert refused.value.code is RefusalCode.CONSENT_MISSING
    with file.transaction():
        for purpose in (Purpose.TERMS, Purpose.PERSONAL_DATA):
            accounts.consent(person, purpose, version="2025-02-13", channel="APP", now_s=NOW)
    accounts.check_consents(person)
    with file.transaction():
        accounts.withdraw(person, Purpose.TERMS, NOW + 1)
    with pytest.raises(PolicyRefusal):
        accounts.check_consents(person)
    assert len(accounts.consents(person)) == 2
