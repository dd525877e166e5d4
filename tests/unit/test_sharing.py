"""Sharing a key: what is offered, asked, confirmed, signed and received, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from share_world import (
    ACCOUNT,
    EXPIRES_S,
    NOW_S,
    PIN,
    Share,
    access,
    offer,
)
from statement_world import (
    END_S,
    KEYS,
    VAULT,
    VEHICLE,
    attested,
    list_claims,
    public,
    signed_list,
    user_claims,
    x_of,
)

from dkey.crypto.box import open_box, open_from, seal_box, seal_to
from dkey.crypto.seal import Seal
from dkey.crypto.secret import Secret
from dkey.errors import (
    AuthenticationError,
    LocalFault,
    PolicyRefusal,
    RefusalCode,
    StoreError,
    VaultError,
    WireError,
)
from dkey.lifecycle.accepting import FriendExchange
from dkey.lifecycle.claims import Issuer, holder_ref, key_ref
from dkey.lifecycle.envelope import Cipher, Direction, open_envelope, seal_envelope
from dkey.lifecycle.invitation import ShareLink, read_invitation, sign_invitation
from dkey.lifecycle.policy import CODE_MAX_TRIES
from dkey.lifecycle.roles import Permission, Role
from dkey.lifecycle.share_messages import fingerprint, pin_proof, seal_receipt, share_pin
from dkey.lifecycle.share_states import (
    FRIEND_TRANSITIONS,
    SHARER_TRANSITIONS,
    ShareInput,
    ShareState,
    allow,
    at,
)
from dkey.lifecycle.sharing import SharerExchange
from dkey.testing import ScriptedEntropy, SeededEntropy

WRONG = Secret(b"314159")


def code_of(act) -> RefusalCode:
    with pytest.raises(PolicyRefusal) as caught:
        act()
    return caught.value.code


# --- the whole way --------------------------------------------------------------------------------


@pytest.mark.parametrize("needs_pin", [False, True])
@pytest.mark.parametrize("sharer", ["owner", "user"])
def test_a_friend_gets_the_key_that_was_offered(sharer, needs_pin) -> None:
    share = Share(sharer=sharer, needs_pin=needs_pin)
    received, receipt = share.receive(share.signed())
    claims = received.claims
    assert claims.public_key == public("friend")
    assert (claims.signer, claims.slot, claims.role) == (x_of(sharer), 2, Role.ASSOCIATE)
    assert claims.holder == holder_ref(VEHICLE, ACCOUNT)
    assert received.access == access()
    assert received.lists == {Issuer.OWNER: signed_list()}
    assert len(received.chain) == (1 if sharer == "owner" else 2)
    share.sharer = share.sharer.receive_receipt(receipt)
    assert share.sharer.state is share.friend.state is ShareState.IMPORTED


def test_an_actual_user_gets_the_right_to_share() -> None:
    share = Share(role=Role.ACTUAL_USER, permission=Permission.ENTRY_AND_START)
    share.confirmed()
    assert share.receive(share.sign(slot=0))[0].claims.reshare


def test_a_lost_answer_and_a_lost_receipt_are_sent_again() -> None:
    share = Share()
    answer = share.signed()
    assert share.take(share.ask()) is None
    assert share.sharer.answer == answer
    share.receive(answer)
    _, receipt = share.receive(answer)
    share.sharer = share.sharer.receive_receipt(receipt).receive_receipt(receipt)
    assert share.sharer.state is ShareState.IMPORTED


# --- the invitation and its forms -----------------------------------------------------------------


def test_a_text_link_carries_the_invitation_or_the_mailbox_and_the_secret() -> None:
    share = Share()
    link = share.sharer.link(share.invitation)
    assert link.to_text().startswith("dkey:share?v=1&m=")
    assert ShareLink.parse_text(f" {link.to_text()}\n") == link
    share = Share(mailbox="https://relay.example.org/v1/m/6a1f?v=c")
    text = share.sharer.link(share.invitation).to_text()
    assert text.startswith("https://relay.example.org/v1/m/6a1f?v=c#")
    parsed = ShareLink.parse_text(text)
    assert (parsed.url, parsed.envelope) == (share.sharer.invitation.mailbox, None)
    assert parsed.secret == share.sharer.secret


def test_a_file_carries_the_invitation_and_the_secret() -> None:
    share = Share()
    link = share.sharer.link(share.invitation)
    assert ShareLink.parse_file(link.to_file()) == link
    with pytest.raises(LocalFault):
        ShareLink(secret=link.secret, url="https://relay.example.org/m").to_file()
    with pytest.raises(LocalFault):
        ShareLink(secret=link.secret).to_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text.replace("v=1", "v=2"),
        lambda text: text.replace("#", "&"),
        lambda text: text.replace("dkey:share", "dkey:pair"),
        lambda text: "http://relay.example.org/m#" + text.rpartition("#")[2],
        lambda text: "https://relay.example.org/m n#" + text.rpartition("#")[2],
        lambda _: "",
    ],
)
def test_any_other_text_is_no_invitation_and_is_not_repeated(change) -> None:
    share = Share()
    text = share.sharer.link(share.invitation).to_text()
    with pytest.raises(LocalFault) as caught:
        ShareLink.parse_text(change(text))
    assert text[-20:] not in str(caught.value)


def test_a_changed_file_is_no_invitation_file() -> None:
    share = Share()
    data = share.sharer.link(share.invitation).to_file()
    for at_byte in (*range(20), len(data) - 1):
        changed = data[:at_byte] + bytes((data[at_byte] ^ 1,)) + data[at_byte + 1 :]
        try:
            assert ShareLink.parse_file(changed) != ShareLink.parse_file(data)
        except WireError:
            continue
    for cut in range(len(data)):
        with pytest.raises(WireError):
            ShareLink.parse_file(data[:cut])


@pytest.mark.parametrize(
    "changes",
    [
        {"vehicle_name": ""},
        {"vehicle_name": "a\nb"},
        {"account": ""},
        {"not_before_s": END_S + 1},
        {"mailbox": "http://relay.example.org/m"},
        {"mailbox": "https://relay.example.org/m#x"},
        {"nonce": bytes(15)},
        {"role": Role.OWNER},
    ],
)
def test_an_invitation_that_has_no_form_is_not_signed(changes) -> None:
    with pytest.raises(LocalFault):
        sign_invitation(offer(**changes), VAULT, "owner")


def test_an_invitation_is_signed_by_whom_it_names() -> None:
    assert read_invitation(sign_invitation(offer(), VAULT, "owner")) == offer()
    with pytest.raises(LocalFault):
        sign_invitation(offer("user"), VAULT, "owner")
    forged = sign_invitation(offer(), VAULT, "owner").replace(b"Blue estate", b"Pink estate")
    with pytest.raises(AuthenticationError):
        read_invitation(forged)


def test_nothing_secret_shows_itself() -> None:
    share = Share(needs_pin=True)
    share.signed()
    link = share.sharer.link(share.invitation)
    shown = repr(share.sharer) + repr(share.friend) + repr(link) + repr(share.signing())
    assert share.sharer.secret.reveal().hex() not in shown
    for secret in (share.sharer.secret, PIN, access().resolving_key):
        assert repr(secret.reveal())[2:-1] not in shown


# --- envelopes and boxes --------------------------------------------------------------------------


@pytest.mark.parametrize("cipher", Cipher)
def test_an_envelope_opens_at_its_place_only(cipher) -> None:
    secret, entropy = Secret(bytes(32)), SeededEntropy(1)
    place = {"direction": Direction.TO_FRIEND, "sequence": 2}
    data = seal_envelope(secret, b"said", entropy=entropy, cipher=cipher, **place)
    assert open_envelope(secret, data, **place) == b"said"
    for wrong in (
        {"direction": Direction.TO_SHARER, "sequence": 2},
        {"direction": Direction.TO_FRIEND, "sequence": 1},
    ):
        with pytest.raises(AuthenticationError):
            open_envelope(secret, data, **wrong)
    with pytest.raises(AuthenticationError):
        open_envelope(Secret(bytes(31) + b"\x01"), data, **place)


def test_the_two_ciphers_have_different_keys() -> None:
    secret = Secret(bytes(32))
    place = {"direction": Direction.TO_FRIEND, "sequence": 2}
    data = seal_envelope(secret, b"said", entropy=SeededEntropy(1), **place)
    with pytest.raises(AuthenticationError):
        open_envelope(secret, data.replace(b"256", b"128"), **place)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b" " + data,
        lambda data: data[:-1],
        lambda data: data.replace(b"256", b"192"),
        lambda data: data.replace(b'{"type"', b'{"x":1,"type"'),
        lambda data: data.replace(b":", b": "),
        lambda data: data[:-2] + b'\\n"}',
        lambda _: b"[]",
        lambda _: b"1",
        lambda _: b"[" * 20_000,
        lambda data: data.replace(b"}", b" " * 40_000 + b"}"),
    ],
)
def test_an_envelope_in_another_form_is_malformed(change) -> None:
    secret = Secret(bytes(32))
    place = {"direction": Direction.TO_FRIEND, "sequence": 0}
    data = seal_envelope(secret, b"said", entropy=SeededEntropy(1), **place)
    with pytest.raises(WireError):
        open_envelope(secret, change(data), **place)


def test_an_envelope_needs_a_secret_of_32_bytes_and_a_number_of_four() -> None:
    for secret, sequence in ((Secret(bytes(31)), 0), (Secret(bytes(32)), 1 << 32)):
        with pytest.raises(LocalFault):
            seal_envelope(
                secret,
                b"",
                direction=Direction.TO_FRIEND,
                sequence=sequence,
                entropy=SeededEntropy(1),
            )
    with pytest.raises(LocalFault):
        seal_envelope(
            Secret(bytes(32)),
            bytes(32 * 1024),
            direction=Direction.TO_FRIEND,
            sequence=0,
            entropy=SeededEntropy(1),
        )


def test_a_box_opens_under_its_key_and_place_only() -> None:
    key, nonce = Secret(bytes(32)), bytes(12)
    box = seal_box(key, nonce, b"said", b"here")
    assert open_box(key, box, b"here") == b"said"
    for wrong in (b"", box[:11], box[:-1], box + b"\0"):
        with pytest.raises(AuthenticationError):
            open_box(key, wrong, b"here")
    with pytest.raises(AuthenticationError):
        open_box(key, box, b"there")


def test_a_box_to_a_key_opens_with_that_key_and_purpose_only() -> None:
    ephemeral = SeededEntropy(1).ephemeral()
    box = seal_to(KEYS["friend"].public, ephemeral, b"said", b"why")
    assert open_from(VAULT, "friend", box, b"why") == b"said"
    for name, info in (("stranger", b"why"), ("friend", b"else")):
        with pytest.raises(AuthenticationError):
            open_from(VAULT, name, box, info)
    with pytest.raises(WireError):
        open_from(VAULT, "friend", b"\x04" + box[1:33] + bytes(32) + box[65:], b"why")
    with pytest.raises(AuthenticationError):
        open_from(VAULT, "friend", box[:80], b"why")


# --- the request ----------------------------------------------------------------------------------


def test_a_second_key_is_refused_and_the_first_stays() -> None:
    share = Share()
    share.take(share.ask())
    assert code_of(lambda: share.take(share.ask(key="stranger"))) is RefusalCode.ALREADY_LINKED
    assert share.sharer.friend == public("friend")


def test_another_account_is_refused() -> None:
    share = Share()
    sealed = share.ask(account="stranger@example.org")
    assert code_of(lambda: share.take(sealed)) is RefusalCode.NOT_AUTHORISED
    assert share.sharer.state is ShareState.INVITED
    with pytest.raises(PolicyRefusal):
        Share().friend.request(
            vault=share.friend_vault,
            key="friend",
            account="stranger@example.org",
            now_s=NOW_S,
            entropy=share.entropy,
        )


def test_a_request_shows_a_key_that_its_sender_holds() -> None:
    share = Share()

    class Thief(type(share.friend_vault)):
        def public(self, key: str):
            return KEYS["user"].public

    share.friend_vault = Thief(friend=KEYS["friend"])
    sealed = share.ask()
    with pytest.raises(AuthenticationError):
        share.take(sealed)
    assert share.sharer.state is ShareState.INVITED


@pytest.mark.parametrize(
    "changes", [{"nonce": bytes(16)}, {"share_id": bytes(16)}, {"vehicle": bytes(16)}]
)
def test_a_request_for_another_invitation_is_refused(changes) -> None:
    share = Share()
    share.friend = replace(share.friend, invitation=replace(share.friend.invitation, **changes))
    with pytest.raises(AuthenticationError):
        share.take(share.ask())


def test_a_friend_sends_one_key() -> None:
    share = Share()
    share.ask()
    with pytest.raises(LocalFault):
        share.friend.request(
            vault=share.friend_vault,
            key="stranger",
            account=ACCOUNT,
            now_s=NOW_S,
            entropy=share.entropy,
        )


def test_an_invitation_that_is_too_old_is_not_used() -> None:
    share = Share()
    late = EXPIRES_S + 1
    assert code_of(lambda: share.opened(now_s=late)) is RefusalCode.CODE_TIMEOUT
    assert code_of(lambda: share.ask(now_s=late)) is RefusalCode.CODE_TIMEOUT
    sealed = share.ask(now_s=EXPIRES_S)
    assert code_of(lambda: share.take(sealed, now_s=late)) is RefusalCode.CODE_TIMEOUT
    assert share.take(sealed, now_s=EXPIRES_S) is None
    assert code_of(lambda: share.confirm(now_s=late)) is RefusalCode.CODE_TIMEOUT
    share.confirm(now_s=EXPIRES_S)
    assert code_of(lambda: share.sign(now_s=late)) is RefusalCode.CODE_TIMEOUT
    assert share.sharer.tick(late).state is ShareState.EXPIRED
    assert share.sharer.tick(late).tick(NOW_S).state is ShareState.EXPIRED


# --- the PIN --------------------------------------------------------------------------------------


def test_the_third_wrong_pin_locks_the_invitation() -> None:
    share = Share(needs_pin=True)
    for _ in range(CODE_MAX_TRIES - 1):
        assert share.take(share.ask(pin=WRONG)) is RefusalCode.NOT_AUTHORISED
    assert share.take(share.ask(pin=WRONG)) is RefusalCode.CODE_LOCKED_OUT
    assert code_of(lambda: share.take(share.ask())) is RefusalCode.CODE_LOCKED_OUT
    assert share.sharer.friend is None


def test_a_right_pin_within_the_tries_is_taken() -> None:
    share = Share(needs_pin=True)
    for _ in range(CODE_MAX_TRIES - 1):
        share.take(share.ask(pin=WRONG))
    assert share.take(share.ask()) is None


def test_tries_survive_being_kept() -> None:
    share = Share(needs_pin=True)
    seal = Seal(Secret(bytes(32)), share.entropy)
    for _ in range(CODE_MAX_TRIES):
        share.take(share.ask(pin=WRONG))
        share.sharer = SharerExchange.from_value(share.sharer.to_value(seal), seal)
    assert share.sharer.state is ShareState.LOCKED


def test_without_a_pin_nothing_is_counted_and_nothing_taken() -> None:
    share = Share(needs_pin=True)
    share.friend = replace(
        share.friend, invitation=replace(share.friend.invitation, needs_pin=False)
    )
    sealed, _ = share.friend.request(
        vault=share.friend_vault,
        key="friend",
        account=ACCOUNT,
        now_s=NOW_S,
        entropy=share.entropy,
    )[::-1]
    assert code_of(lambda: share.take(sealed)) is RefusalCode.NOT_AUTHORISED
    assert share.sharer.tries == 0
    with pytest.raises(LocalFault):
        share.opened().request(
            vault=share.friend_vault,
            key="friend",
            account=ACCOUNT,
            now_s=NOW_S,
            entropy=share.entropy,
        )


def test_a_pin_and_the_invitation_agree_about_it() -> None:
    for pin, needs_pin in ((PIN, False), (None, True), (Secret(b"12345"), True)):
        with pytest.raises(LocalFault):
            SharerExchange.invite(
                offer(needs_pin=needs_pin),
                pin=pin,
                vault=VAULT,
                key="owner",
                entropy=SeededEntropy(1),
            )


def test_a_pin_proof_is_of_one_key_invitation_and_secret() -> None:
    secret = Secret(bytes(32))
    proofs = {
        pin_proof(secret, PIN, offer(), public("friend")),
        pin_proof(secret, WRONG, offer(), public("friend")),
        pin_proof(secret, PIN, offer(), public("stranger")),
        pin_proof(secret, PIN, offer(nonce=bytes(16)), public("friend")),
        pin_proof(Secret(bytes(31) + b"\x01"), PIN, offer(), public("friend")),
    }
    assert len(proofs) == 5


def test_pins_are_drawn_evenly() -> None:
    limit = (1 << 32) // 10**6 * 10**6
    entropy = ScriptedEntropy(randoms=[limit.to_bytes(4, "big"), (limit - 1).to_bytes(4, "big")])
    assert share_pin(entropy) == Secret(b"999999")


# --- confirming -----------------------------------------------------------------------------------


def test_both_see_the_same_fingerprint_and_another_keys_is_another() -> None:
    share = Share()
    share.take(share.ask())
    seen = share.sharer.fingerprint
    assert seen == share.friend.fingerprint(share.friend_vault)
    assert [len(part) for part in seen.split(" ")] == [4, 4, 4]
    assert seen != fingerprint(share.sharer.secret, offer(), public("stranger"))


def test_nothing_is_signed_before_the_sharer_confirmed() -> None:
    share = Share()
    assert code_of(share.sign) is RefusalCode.NOT_AUTHORISED
    share.take(share.ask())
    assert code_of(share.sign) is RefusalCode.NOT_AUTHORISED


def test_confirming_another_keys_fingerprint_confirms_nothing() -> None:
    share = Share()
    share.take(share.ask(key="stranger"))
    share.ask()
    assert code_of(share.confirm) is RefusalCode.NOT_AUTHORISED
    assert share.sharer.state is ShareState.REQUESTED


def test_there_is_no_fingerprint_before_a_key() -> None:
    share = Share()
    assert code_of(lambda: share.sharer.fingerprint) is RefusalCode.NOT_AUTHORISED
    assert code_of(lambda: share.friend.fingerprint(share.friend_vault)) is (
        RefusalCode.NOT_AUTHORISED
    )


@pytest.mark.parametrize("stage", ["invited", "requested", "confirmed"])
def test_a_sharer_may_decline_until_it_signs(stage) -> None:
    share = Share()
    if stage == "requested":
        share.take(share.ask())
    if stage == "confirmed":
        share.confirmed()
    share.sharer = share.sharer.decline()
    assert share.sharer.state is ShareState.DECLINED
    assert code_of(lambda: share.take(share.ask())) is RefusalCode.NOT_AUTHORISED


def test_after_signing_nothing_is_declined() -> None:
    share = Share()
    share.signed()
    assert code_of(share.sharer.decline) is RefusalCode.NOT_AUTHORISED


def test_a_friend_may_decline_until_it_has_the_key() -> None:
    share = Share()
    answer = share.signed()
    declined = share.friend.decline()
    with pytest.raises(PolicyRefusal):
        declined.receive_answer(
            answer, vault=share.friend_vault, now_s=NOW_S, entropy=share.entropy
        )
    share.receive(answer)
    assert code_of(share.friend.decline) is RefusalCode.NOT_AUTHORISED


# --- the answer -----------------------------------------------------------------------------------


def test_the_answer_opens_with_the_friends_key_only() -> None:
    share = Share()
    answer = share.signed()
    _, sealed = share.opened().request(
        vault=share.friend_vault,
        key="stranger",
        account=ACCOUNT,
        now_s=NOW_S,
        entropy=share.entropy,
    )
    assert sealed
    thief = replace(share.opened(), state=ShareState.REQUESTED, key="stranger")
    with pytest.raises(AuthenticationError):
        thief.receive_answer(answer, vault=share.friend_vault, now_s=NOW_S, entropy=share.entropy)


def test_an_answer_without_a_request_is_refused() -> None:
    share = Share()
    answer = share.signed()
    share.friend = share.opened()
    assert code_of(lambda: share.receive(answer)) is RefusalCode.NOT_AUTHORISED


@pytest.mark.parametrize(
    "changes",
    [
        {"permission": Permission.ENTRY_AND_START},
        {"role": Role.PROVIDER},
        {"not_after_s": END_S - 1},
        {"not_before_s": 0},
        {"account": "other@example.org"},
        {"sharer": public("stranger")},
        {"share_id": bytes(16)},
        {"vehicle": bytes(16)},
    ],
)
def test_a_key_that_is_not_what_was_offered_is_refused(changes) -> None:
    share = Share()
    answer = share.signed()
    share.friend = replace(share.friend, invitation=replace(share.friend.invitation, **changes))
    with pytest.raises((AuthenticationError, PolicyRefusal)):
        share.receive(answer)
    assert share.friend.state is ShareState.REQUESTED


def test_an_answer_that_speaks_of_another_vehicle_is_refused() -> None:
    share = Share().confirmed()
    answer = share.sign(access=access(vehicle=bytes(16)))
    with pytest.raises(AuthenticationError):
        share.receive(answer)


def test_what_the_vehicle_would_refuse_is_not_signed() -> None:
    share = Share(sharer="user", permission=Permission.ENTRY_AND_START).confirmed()
    weak = attested(user_claims(permission=Permission.ENTRY))
    assert code_of(lambda: share.sign(chain=(weak,))) is RefusalCode.PERMISSION_ENTRY_ONLY
    assert code_of(lambda: share.sign(chain=())) is RefusalCode.KEY_UNKNOWN
    assert share.sharer.state is ShareState.CONFIRMED


def test_a_key_that_is_over_or_withdrawn_already_is_not_imported() -> None:
    share = Share()
    answer = share.signed()
    assert code_of(lambda: share.receive(answer, now_s=END_S + 1)) is RefusalCode.KEY_EXPIRED
    for reference in (key_ref(x_of("friend")), offer().share_id):
        share = Share().confirmed()
        gone = signed_list(list_claims(revoked=(reference,)))
        answer = share.sign(lists={Issuer.OWNER: gone})
        assert code_of(lambda: share.receive(answer)) is RefusalCode.KEY_REVOKED  # noqa: B023


def test_a_list_that_the_root_did_not_sign_so_is_refused_and_the_authoritys_is_carried() -> None:
    other = signed_list(list_claims(vehicle=bytes(16)))
    share = Share().confirmed()
    answer = share.sign(lists={Issuer.OWNER: other})
    assert code_of(lambda: share.receive(answer)) is RefusalCode.WRONG_VEHICLE
    carried = signed_list(list_claims(issuer=Issuer.AUTHORITY), "authority")
    share = Share().confirmed()
    received, _ = share.receive(share.sign(lists={Issuer.AUTHORITY: carried}))
    assert received.lists == {Issuer.AUTHORITY: carried}


def test_a_receipt_is_of_the_friends_key_and_this_invitation() -> None:
    share, other = Share(), Share(share_id=bytes(16))
    _, receipt = share.receive(share.signed())
    _, wrong = other.receive(other.signed())
    with pytest.raises(AuthenticationError):
        share.sharer.receive_receipt(wrong)
    assert code_of(lambda: Share().sharer.receive_receipt(receipt)) is RefusalCode.NOT_AUTHORISED
    forged = seal_receipt(
        share.sharer.invitation,
        secret=share.sharer.secret,
        vault=share.friend_vault,
        key="stranger",
        entropy=share.entropy,
    )
    with pytest.raises(AuthenticationError):
        share.sharer.receive_receipt(forged)


# --- states and storing ---------------------------------------------------------------------------


def test_what_no_table_lists_is_refused() -> None:
    for table in (SHARER_TRANSITIONS, FRIEND_TRANSITIONS):
        for state in ShareState:
            for given in ShareInput:
                if (state, given) in table:
                    allow(state, given, table)
                else:
                    with pytest.raises(PolicyRefusal):
                        allow(state, given, table)


def test_every_state_that_has_a_limit_ends_after_it() -> None:
    for table in (SHARER_TRANSITIONS, FRIEND_TRANSITIONS):
        for state in ShareState:
            ended = (state, ShareInput.TIMEOUT) in table
            assert at(state, 10, 10, table) is state
            assert at(state, 10, 11, table) is (ShareState.EXPIRED if ended else state)


@pytest.mark.parametrize("needs_pin", [False, True])
def test_both_ends_come_back_as_they_were_kept(needs_pin) -> None:
    share = Share(needs_pin=needs_pin)
    seal = Seal(Secret(bytes(range(32))), share.entropy)
    for _ in range(2):
        value = share.sharer.to_value(seal)
        assert SharerExchange.from_value(value, seal) == share.sharer
        assert FriendExchange.from_value(share.friend.to_value(seal), seal) == share.friend
        assert share.sharer.secret.reveal() not in b"".join(
            each for each in value.values() if isinstance(each, bytes)
        )
        if share.sharer.state is ShareState.INVITED:
            share.signed()


def test_a_damaged_or_foreign_value_is_refused() -> None:
    share = Share(needs_pin=True)
    seal = Seal(Secret(bytes(32)), share.entropy)
    sharer, friend = share.sharer.to_value(seal), share.friend.to_value(seal)
    for change in (
        {"version": 2},
        {"state": "?"},
        {"invitation": b""},
        {"tries": -1},
        {"friend": b""},
    ):
        with pytest.raises(StoreError):
            SharerExchange.from_value(sharer | change, seal)
    with pytest.raises(StoreError):
        SharerExchange.from_value(friend, seal)
    with pytest.raises(StoreError):
        FriendExchange.from_value(friend | {"key": 1}, seal)
    with pytest.raises(StoreError):
        SharerExchange.from_value(sharer | {"pin": None}, seal)
    with pytest.raises(VaultError):
        SharerExchange.from_value(sharer | {"pin": sharer["secret"]}, seal)
    with pytest.raises(VaultError):
        FriendExchange.from_value(friend, Seal(Secret(bytes(31) + b"\x01"), share.entropy))
