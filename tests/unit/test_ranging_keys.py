"""The ranging key ladder, the life of the ranging secret, and the STS."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from dkey.crypto.cmac import aes_cmac
from dkey.crypto.secret import Secret
from dkey.errors import LocalFault, PolicyRefusal, RefusalCode
from dkey.ranging import keys
from dkey.ranging.keys import INDEX_LIMIT, RangingKeys, UwbAddresses
from dkey.ranging.sts import sts_bytes, sts_pulses, sts_pulses_batch
from dkey.ranging.ursk_life import FIRST_INDEX_LIMIT, URSK_TTL_S, UrskDeath, UrskLife

URSK = Secret(bytes(range(32)))
CONFIGURATION = bytes(range(0xA0, 0xB0))


def hexed(secret: Secret) -> str:
    return secret.reveal().hex()


# --- AES-CMAC -----------------------------------------------------------------------------------


def test_cmac_gives_the_answers_of_rfc_4493():
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    assert aes_cmac(key, b"").hex() == "bb1d6929e95937287fa37d129b756746"
    message = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")
    assert aes_cmac(key, message).hex() == "070a16b46b4d4144f79bdd9dd04a287c"


@pytest.mark.parametrize("size", [0, 15, 17, 31, 33])
def test_cmac_takes_no_key_of_another_length(size):
    with pytest.raises(LocalFault):
        aes_cmac(bytes(size), b"")


# --- the ladder ---------------------------------------------------------------------------------


def test_the_ladder_gives_the_known_answers():
    hashed = keys.salted_hash(URSK, CONFIGURATION)
    root = keys.mursk(URSK)
    of_round = keys.ursk_kt(root, 5)
    assert hexed(keys.mupsk1(URSK)) == "8130793f00b6f71bf39deb342347806b"
    assert hexed(keys.mupsk2(URSK)) == (
        "0d729b1d50b921d7fd21a2f0841fa3f176286b1b2ea626c036a7276ec6f4ad3f"
    )
    assert hexed(root) == "cb2e6fb9390768bd6b99d7547420aec7b9be2702e42093e55bf11d6e1b524b72"
    assert hexed(keys.salt(URSK)) == "006f7b1ae4c288c73210cbb146c5a3de"
    assert hexed(hashed) == "de702530285dc68ea7f138bdfa607a2d"
    assert hexed(of_round) == "a25370455670465277a7721d1ac85482ad73bc021053c1a3082f6af6aadf5c54"
    assert hexed(keys.dursk(of_round, hashed)) == "15c03bdc50dd7502835e520c81b4178b"
    assert hexed(keys.dudsk(of_round, hashed)) == "f83633ef0bc0e60f4d492288f177a006"
    assert hexed(keys.sts_v(hashed, 7)) == "de702530285dc68ea7f138c4fa607a2d"


def test_the_session_ladder_gives_the_same_as_its_steps():
    ladder = RangingKeys(URSK, CONFIGURATION, 3)
    assert hexed(ladder.round(5).sts) == "15c03bdc50dd7502835e520c81b4178b"
    assert hexed(ladder.round(5).data) == "f83633ef0bc0e60f4d492288f177a006"
    assert hexed(ladder.sts_block(7)) == "de702530285dc68ea7f138c4fa607a2d"
    assert hexed(ladder.pre_poll) == "8130793f00b6f71bf39deb342347806b"
    assert ladder.addresses == UwbAddresses(
        key_source=bytes.fromhex("3df8a883"),
        dest_short=bytes.fromhex("15f2"),
        src_long=bytes.fromhex("76fd20ac970181aa"),
    )


@pytest.mark.parametrize(("given_", "used"), [("ffff", "7fff"), ("fffe", "7ffe"), ("fffd", "fffd")])
def test_a_reserved_short_address_loses_its_highest_bit(given_, used):
    block = bytes(4) + bytes.fromhex(given_) + bytes(10)
    assert UwbAddresses.from_block(block).dest_short.hex() == used


def test_a_long_address_of_all_ones_loses_its_highest_bit():
    addresses = UwbAddresses.from_block(b"\xff" * 16)
    assert addresses.src_long == b"\x7f" + b"\xff" * 7
    assert addresses.key_source.hex() == "7fff7fff"


@given(st.integers(0, INDEX_LIMIT - 2))
def test_every_round_has_keys_of_its_own(index):
    ladder = RangingKeys(URSK, CONFIGURATION, 0)
    assert ladder.round(index).sts != ladder.round(index + 1).sts
    assert ladder.round(index).sts != ladder.round(index).data


def test_one_changed_bit_of_the_configuration_changes_the_sts_key():
    other = bytes((CONFIGURATION[0] ^ 1,)) + CONFIGURATION[1:]
    mine, theirs = RangingKeys(URSK, CONFIGURATION, 0), RangingKeys(URSK, other, 0)
    assert mine.round(0).sts != theirs.round(0).sts


@given(st.integers(0, INDEX_LIMIT - 1), st.integers(0, INDEX_LIMIT - 1))
def test_the_counter_block_moves_with_the_index_and_wraps(one, other):
    hashed = Secret(bytes(8) + b"\xff\xff\xff\xfe" + bytes(4))
    same = keys.sts_v(hashed, one) == keys.sts_v(hashed, other)
    assert same is (one == other)


def test_an_index_at_its_limit_has_no_keys():
    with pytest.raises(LocalFault):
        keys.ursk_kt(keys.mursk(URSK), INDEX_LIMIT)
    with pytest.raises(LocalFault):
        keys.sts_v(Secret(bytes(16)), -1)


def test_a_ranging_secret_of_another_length_is_refused():
    with pytest.raises(LocalFault):
        keys.mursk(Secret(bytes(16)))


def test_the_ladder_shows_no_secret():
    shown = repr(RangingKeys(URSK, CONFIGURATION, 3)) + repr(
        RangingKeys(URSK, CONFIGURATION, 3).round(1)
    )
    assert "15c03bdc" not in shown
    assert "8130793f" not in shown


# --- the life of the ranging secret -------------------------------------------------------------


def running(index: int = 100) -> UrskLife:
    life = UrskLife(URSK)
    life.begin(index, now_s=0.0)
    return life


def refused(action) -> RefusalCode:
    with pytest.raises(PolicyRefusal) as caught:
        action()
    return caught.value.code


def test_the_time_starts_with_the_first_session_not_with_the_derivation():
    life = UrskLife(URSK)
    assert life.deadline_s is None
    life.begin(0, now_s=1000.0)
    assert life.deadline_s == 1000.0 + URSK_TTL_S


def test_the_secret_lives_until_just_before_12_h_and_not_at_12_h():
    life = running()
    life.spend(100, 6, now_s=URSK_TTL_S - 0.001)
    assert refused(lambda: life.spend(106, now_s=URSK_TTL_S)) is RefusalCode.KEY_EXPIRED
    assert life.death is UrskDeath.EXPIRED


def test_a_resume_does_not_prolong_the_life():
    life = running()
    life.suspend()
    life.begin(200, now_s=URSK_TTL_S - 1)
    assert life.deadline_s == URSK_TTL_S


@pytest.mark.parametrize("index", [-1, FIRST_INDEX_LIMIT])
def test_the_first_index_is_below_2_to_the_30(index):
    with pytest.raises(LocalFault):
        UrskLife(URSK).begin(index, now_s=0.0)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8), st.booleans()), max_size=30))
def test_no_index_is_ever_given_twice_over_suspensions(steps):
    life = running(0)
    used: set[int] = set()
    for index, count, suspend in steps:
        if suspend:
            life.suspend()
            try:
                life.begin(index, now_s=1.0)
            except PolicyRefusal:
                life.begin(life.next_index, now_s=1.0)
        try:
            life.spend(index, count, now_s=1.0)
        except PolicyRefusal:
            continue
        fresh = set(range(index, index + count))
        assert not fresh & used
        assert not used or min(fresh) > max(used)
        used |= fresh


def test_a_resume_on_a_used_index_is_refused_and_changes_nothing():
    life = running()
    life.spend(100, 6, now_s=1.0)
    life.suspend()
    assert refused(lambda: life.begin(105, now_s=2.0)) is RefusalCode.REPLAY
    assert not life.running
    life.begin(106, now_s=2.0)


def test_the_last_index_is_2_to_the_31_minus_2():
    life = running(FIRST_INDEX_LIMIT - 1)
    life.spend(INDEX_LIMIT - 1, now_s=1.0)
    assert refused(lambda: life.spend(INDEX_LIMIT, now_s=1.0)) is RefusalCode.KEY_EXPIRED
    assert life.death is UrskDeath.EXHAUSTED


def test_a_round_that_reaches_over_the_limit_kills_the_secret_before_it_is_given():
    life = running()
    assert refused(lambda: life.spend(INDEX_LIMIT - 5, 6, now_s=1.0)) is RefusalCode.KEY_EXPIRED
    assert life.death is UrskDeath.EXHAUSTED


@pytest.mark.parametrize(
    ("end", "cause"),
    [(UrskLife.lose_link, UrskDeath.LINK_LOST), (UrskLife.lose_index, UrskDeath.INDEX_LOST)],
)
def test_a_lost_link_or_index_is_the_end_for_good(end, cause):
    life = running()
    end(life)
    assert life.death is cause
    assert refused(lambda: life.begin(500, now_s=1.0)) is RefusalCode.KEY_EXPIRED
    life.lose_link()
    assert life.death is cause


def test_nothing_is_given_without_a_running_session():
    life = running()
    life.suspend()
    with pytest.raises(LocalFault):
        life.spend(100, now_s=1.0)


def test_a_clock_that_runs_backwards_gives_no_life():
    life = running()
    life.spend(100, now_s=10.0)
    with pytest.raises(LocalFault):
        life.spend(101, now_s=9.0)
    with pytest.raises(LocalFault):
        life.spend(101, now_s=float("nan"))


# --- STS ----------------------------------------------------------------------------------------

STS_KEY = Secret(bytes(range(16)))


def test_the_sts_is_counter_mode():
    block = bytes(range(12)) + bytes((0, 0, 0, 5))
    plain = (
        Cipher(algorithms.AES(STS_KEY.reveal()), modes.CTR(block)).encryptor().update(bytes(512))
    )
    assert sts_bytes(STS_KEY, Secret(block)) == plain


def test_bit_0_is_a_positive_pulse():
    block = Secret(bytes(16))
    bits = np.unpackbits(np.frombuffer(sts_bytes(STS_KEY, block), np.uint8))
    assert ((sts_pulses(STS_KEY, block) == 1) == (bits == 0)).all()
    assert sts_pulses(STS_KEY, block).shape == (4096,)


def test_the_counter_wraps_without_a_carry_into_the_index():
    head = bytes(12)
    wrapped = sts_bytes(STS_KEY, Secret(head + b"\xff\xff\xff\xff"), 2)
    assert wrapped[16:] == sts_bytes(STS_KEY, Secret(bytes(16)), 1)


def test_a_batch_is_the_single_segments():
    blocks = [Secret(bytes(11) + bytes((at,)) + b"\xff\xff\xff\xf0") for at in range(5)]
    batch = sts_pulses_batch(STS_KEY, blocks)
    assert (batch == np.stack([sts_pulses(STS_KEY, each) for each in blocks])).all()


@pytest.mark.parametrize("blocks", [0, 4097])
def test_a_segment_of_impossible_length_is_refused(blocks):
    with pytest.raises(LocalFault):
        sts_pulses(STS_KEY, Secret(bytes(16)), blocks)
