"""``dkey key`` in this process: what it says in words and in JSON, and its exit codes."""

from __future__ import annotations

import io
import json

import pytest
from agent_world import GROUP
from key_world import FRIENDS, OWNER, Phone, hand_over

from dkey.access.delivery import carries_news
from dkey.agent.carried import CarriedStore
from dkey.agent.store import KeyState
from dkey.crypto.secret import Secret
from dkey.lifecycle.parcel import KeyParcel, VehicleReceipt
from dkey.lifecycle.withdrawal import read_withdrawal

FRIEND = FRIENDS[0]


@pytest.fixture
def owner(tmp_path):
    phone = Phone(tmp_path / "owner", OWNER).pair()
    assert phone.key("own", "--account", OWNER).code == 0
    return phone


@pytest.fixture
def friend(tmp_path):
    return Phone(tmp_path / "friend", FRIEND)


def tell(phone: Phone, **numbers: int) -> None:
    """Let the vehicle write its receipt into a phone's mailbox."""
    receipt = VehicleReceipt(**{"epoch": 1, **numbers})
    with phone.open() as store:
        mailbox = store.credential(GROUP).mailbox
        data = mailbox.data[:20] + receipt.to_bytes() + mailbox.data[36:]
        CarriedStore(store, GROUP).save_mailbox(data)


def test_a_key_goes_from_hand_to_hand_by_files(owner, friend):
    hand_over(owner, friend)
    mine = friend.key("list")
    assert mine.state(FRIEND) == "NOT_SYNCED"
    assert owner.key("list").state(FRIEND) == "NOT_SYNCED"
    assert mine.keys[FRIEND]["own"]


def test_the_first_use_makes_the_friend_s_key_usable(owner, friend):
    hand_over(owner, friend)
    friend.synced()
    assert friend.key("list").state(FRIEND) == "ACTIVE"


def test_the_friend_carries_the_chain_to_the_vehicle_and_offers_no_fast_key(owner, friend):
    hand_over(owner, friend)
    with friend.open() as store:
        credential = store.credential(GROUP)
        store.save_kpersistent(GROUP, bytes(16), Secret(bytes(32)))
        assert carries_news(credential.mailbox.data)
        assert store.credential(GROUP).kpersistent == {}
    tell(friend, admissions=1)
    with friend.open() as store:
        assert store.credential(GROUP).kpersistent != {}


def test_the_fourth_share_is_refused_with_its_code(owner):
    for each in FRIENDS[:3]:
        assert owner.key("share", each).code == 0
    fourth = owner.key("share", FRIENDS[3])
    assert (fourth.code, fourth.object["result"], fourth.object["code"]) == (
        1,
        "refused",
        "SHARE_LIMIT",
    )
    assert FRIENDS[3] not in fourth.keys


def test_a_revoked_share_makes_room_for_another(owner):
    for each in FRIENDS[:3]:
        owner.key("share", each)
    assert owner.key("revoke", FRIENDS[1]).code == 0
    assert owner.key("share", FRIENDS[3]).code == 0


def test_a_refusal_in_words_says_what_why_and_try(owner):
    for each in FRIENDS[:3]:
        owner.key("share", each)
    ran = owner.say("share", FRIENDS[3])
    assert [line.split(":")[0].strip() for line in ran.err.splitlines()] == ["error", "why", "try"]
    assert "SHARE_LIMIT" in ran.err
    assert ran.code == 1


def test_a_revoked_key_is_pending_until_the_vehicle_has_the_list(owner, friend):
    hand_over(owner, friend)
    revoked = owner.key("revoke", FRIEND)
    assert revoked.state(FRIEND) == "REVOKED"
    assert revoked.keys[FRIEND]["vehicle_knows"] is False
    assert "revoked, the vehicle does not know yet" in owner.say("list").out
    tell(owner, owner_list=1)
    assert owner.key("list").keys[FRIEND]["vehicle_knows"] is True


def test_another_friend_s_phone_carries_the_list(owner, friend, tmp_path):
    other = Phone(tmp_path / "other", FRIENDS[1])
    gone = hand_over(owner, friend)
    hand_over(owner, other)
    owner.key("revoke", FRIEND)
    path = tmp_path / "list"
    assert owner.key("show", FRIEND, "--list", path).code == 0
    taken = other.key("accept", path)
    assert (taken.code, taken.object["news"]) == (0, True)
    assert other.key("accept", path).object["news"] is False
    with other.open() as store:
        data = store.credential(GROUP).mailbox.data
    parcel = KeyParcel.parse(data[:20] + data[36:])
    (raw,) = parcel.lists.values()
    assert [each.hex() for each in read_withdrawal(raw).revoked] == [gone]


def test_a_friend_who_is_told_of_the_own_revocation_sees_it(owner, friend, tmp_path):
    hand_over(owner, friend)
    owner.key("revoke", FRIEND)
    owner.key("show", FRIEND, "--list", tmp_path / "list")
    friend.key("accept", tmp_path / "list")
    assert friend.key("list").state(FRIEND) == "REVOKED"


def test_suspend_and_resume_return_the_key(owner, friend):
    hand_over(owner, friend)
    assert owner.key("suspend", FRIEND).state(FRIEND) == "SUSPENDED"
    assert owner.key("resume", FRIEND).state(FRIEND) == "NOT_SYNCED"


@pytest.mark.parametrize("words", [["share", FRIENDS[2]], ["suspend", FRIEND], ["revoke", FRIEND]])
def test_an_associate_may_neither_share_nor_withdraw(owner, friend, words):
    hand_over(owner, friend)
    friend.synced()
    refused = friend.key(*words)
    assert (refused.code, refused.object["code"]) == (1, "NOT_AUTHORISED")


def test_a_friend_sees_no_other_person(owner, friend, tmp_path):
    hand_over(owner, friend)
    hand_over(owner, Phone(tmp_path / "other", FRIENDS[1]))
    shown = json.dumps(friend.key("list").object)
    assert OWNER not in shown
    assert FRIENDS[1] not in shown


def test_a_wrong_pin_counts_and_the_third_locks(owner, friend):
    invitation, request = friend.file("invitation"), friend.file("request")
    offered = owner.key("share", FRIEND, "--pin", "--out", invitation)
    wrong = "000000" if offered.object["share"]["pin"] != "000000" else "000001"
    codes = []
    for _ in range(3):
        friend.key("accept", invitation, "--pin", wrong, "--out", request)
        codes.append(owner.key("share", "--request", request, "--yes").object["code"])
    assert codes == ["NOT_AUTHORISED", "NOT_AUTHORISED", "CODE_LOCKED_OUT"]
    friend.key("accept", invitation, "--pin", offered.object["share"]["pin"], "--out", request)
    assert owner.key("share", "--request", request, "--yes").object["code"] == "CODE_LOCKED_OUT"


def test_the_right_pin_passes(owner, friend):
    invitation, request, answer = (friend.file(n) for n in ("invitation", "request", "answer"))
    offered = owner.key("share", FRIEND, "--pin", "--out", invitation)
    pin = offered.object["share"]["pin"]
    friend.key("accept", invitation, "--pin", pin, "--out", request)
    signed = owner.key("share", "--request", request, "--yes", "--out", answer)
    assert signed.code == 0
    assert friend.key("accept", "--answer", answer).code == 0


def test_an_answer_asked_for_again_is_the_same_bytes(owner, friend):
    invitation, request = friend.file("invitation"), friend.file("request")
    owner.key("share", FRIEND, "--out", invitation)
    friend.key("accept", invitation, "--out", request)
    answers = []
    for number in range(2):
        path = friend.file(f"answer{number}")
        owner.key("share", "--request", request, "--yes", "--out", path)
        answers.append(path.read_bytes())
    assert answers[0] == answers[1]


def test_a_second_phone_s_request_for_the_same_invitation_is_refused(owner, friend, tmp_path):
    other = Phone(tmp_path / "other", FRIEND)
    invitation = friend.file("invitation")
    owner.key("share", FRIEND, "--out", invitation)
    for phone in (friend, other):
        phone.key("accept", invitation, "--out", tmp_path / f"{phone.folder.name}.asked")
    owner.key("share", "--request", tmp_path / "friend.asked", "--yes")
    second = owner.key("share", "--request", tmp_path / "other.asked", "--yes")
    assert (second.code, second.object["code"]) == (1, "ALREADY_LINKED")


def test_other_digits_sign_nothing(owner, friend):
    invitation, request = friend.file("invitation"), friend.file("request")
    owner.key("share", FRIEND, "--out", invitation)
    friend.key("accept", invitation, "--out", request)
    refused = owner.key("share", "--request", request, "--compared", "0000 0000 0000")
    assert (refused.code, refused.object["code"]) == (1, "NOT_AUTHORISED")
    assert owner.key("list").state(FRIEND) == "PENDING"


def test_json_never_signs_without_a_word_about_the_digits(owner, friend):
    invitation, request = friend.file("invitation"), friend.file("request")
    owner.key("share", FRIEND, "--out", invitation)
    friend.key("accept", invitation, "--out", request)
    assert owner.key("share", "--request", request).code == 2


def test_an_invitation_is_for_its_account(owner, friend):
    owner.key("share", FRIEND, "--out", friend.file("invitation"))
    refused = friend.key("accept", friend.file("invitation"), "--account", "eve@example.org")
    assert (refused.code, refused.object["code"]) == (1, "NOT_AUTHORISED")


def test_the_text_of_an_invitation_is_accepted_too(owner, friend):
    link = owner.key("share", FRIEND).object["share"]["link"]
    assert link.startswith("dkey:share?")
    assert friend.key("accept", link).object["result"] == "waiting"


def test_a_link_is_read_from_standard_input(owner, friend, monkeypatch):
    link = owner.key("share", FRIEND).object["share"]["link"]
    monkeypatch.setattr("sys.stdin", io.StringIO(link + "\n"))
    assert friend.key("accept", "-").object["result"] == "waiting"


def test_a_qr_is_drawn(owner):
    ran = owner.say("share", FRIEND, "--qr")
    assert ran.out.count("█") > 100


def test_an_actual_user_needs_a_corporate_owner(owner):
    refused = owner.key("share", FRIEND, "--role", "actual-user")
    assert (refused.code, refused.object["code"]) == (1, "NOT_AUTHORISED")


def test_an_actual_user_shares_on_within_the_own_permission(tmp_path):
    owner = Phone(tmp_path / "owner", OWNER).pair()
    owner.key("own", "--account", OWNER, "--corporate")
    user, friend = (Phone(tmp_path / n, f"{n}@example.org") for n in ("user", "friend"))
    hand_over(owner, user, "--role", "actual-user", "--permission", "entry")
    assert user.key("share", FRIEND).object["code"] == "NOT_SYNCED"
    user.synced()
    assert user.key("share", FRIEND).object["code"] == "PERMISSION_ENTRY_ONLY"
    hand_over(user, friend, "--permission", "entry")
    with friend.open() as store:
        assert len(store.keys.book(GROUP).chain) == 2


def test_an_actual_user_withdraws_by_the_authority_only(tmp_path):
    owner = Phone(tmp_path / "owner", OWNER).pair()
    owner.key("own", "--account", OWNER, "--corporate")
    user = Phone(tmp_path / "user", "user@example.org")
    hand_over(owner, user, "--role", "actual-user")
    user.synced()
    user.key("share", FRIEND)
    refused = user.key("suspend", FRIEND)
    assert refused.code == 2
    assert refused.state(FRIEND) == "PENDING"


def test_a_veto_ends_a_share_and_forbids_the_next(owner, friend):
    hand_over(owner, friend)
    vetoed = owner.key("veto", FRIEND)
    assert vetoed.state(FRIEND) == "REVOKED"
    assert owner.key("share", FRIEND).object["code"] == "VETOED_BY_OWNER"


def test_a_provider_s_key_is_in_person_only_by_default(owner):
    refused = owner.key("share", "wash@example.org", "--role", "provider", "--booking", "B-1")
    assert refused.object["code"] == "IN_PERSON_ONLY"


def test_a_transfer_leaves_the_vehicle_half_removed(owner, friend):
    hand_over(owner, friend)
    done = owner.key("transfer", "--yes")
    assert done.code == 0
    assert done.object["keys"] == []
    assert done.object["vehicles"][0]["half_removed"] == "VEHICLE"
    with owner.open() as store:
        (held,) = store.keys.book(GROUP).lists
    assert len(read_withdrawal(held.raw).revoked) == 2


def test_a_transfer_without_a_word_does_nothing(owner):
    assert owner.key("transfer").code == 2
    assert owner.key("list").state(OWNER) == "ACTIVE"


def test_a_vehicle_that_forgot_the_key_has_cleared_its_side(owner):
    owner.key("transfer", "--yes")
    with owner.open() as store:
        store.set_state(GROUP, KeyState.FORGOTTEN)
    assert owner.key("list").object["vehicles"][0]["half_removed"] is None


def test_a_vehicle_that_was_put_back_is_reported(owner):
    tell(owner, owner_list=3)
    tell(owner, owner_list=2)
    assert owner.key("list").object["vehicles"][0]["rolled_back"] is True
    assert "put back" in owner.say("list").out
    with owner.open() as store:
        assert "rolled back" in [each.kind for each in store.events()]


def test_show_writes_the_own_attestation(owner, friend, tmp_path):
    hand_over(owner, friend)
    shown = friend.key("show", FRIEND, "--attestation", tmp_path / "attestation")
    assert shown.code == 0
    assert (tmp_path / "attestation").read_bytes()[:1] == b"\xd2"
    assert (tmp_path / "attestation").stat().st_mode & 0o077 == 0


def test_the_invitation_is_written_again_as_the_same_bytes(owner, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    owner.key("share", FRIEND, "--out", one)
    assert owner.key("show", FRIEND, "--invitation", two).code == 0
    assert one.read_bytes() == two.read_bytes()


def test_an_export_has_keys_and_events_and_no_secret(owner, friend, tmp_path):
    hand_over(owner, friend)
    assert friend.key("export", tmp_path / "export.json").code == 0
    text = (tmp_path / "export.json").read_text()
    found = json.loads(text)
    assert found["keys"][0]["account"] == FRIEND
    assert [each["kind"] for each in found["events"]] == ["received"]
    with friend.open() as store:
        assert store.vehicle(GROUP).vehicle.resolving_key.reveal().hex() not in text


def test_a_repaired_vehicle_begins_its_keys_anew(owner, friend):
    hand_over(owner, friend)
    owner.pair(epoch=2)
    assert FRIEND not in owner.key("list").keys


def test_the_owner_s_phone_accepts_no_share_of_its_own_vehicle(owner):
    link = owner.key("share", FRIEND).object["share"]["link"]
    refused = owner.key("accept", link)
    assert refused.object["code"] == "ALREADY_LINKED"


def test_without_a_store_list_is_a_usage_error(tmp_path):
    assert Phone(tmp_path / "nobody", OWNER).key("list").code == 2
