"""The mailbox: order of changes, atomic sessions, bounds, rights."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.access.exchange import Fault, MailboxOp, Read, Set, Write
from dkey.access.mailbox import MAX_STAGED, Mailbox, MailboxFault
from dkey.access.messages import Signaling

SIZE = 12
span = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).filter(lambda s: sum(s) <= SIZE)
change = st.builds(
    lambda s, data: Write(s[0], data[: s[1]]), span, st.binary(min_size=SIZE, max_size=SIZE)
) | st.builds(lambda s, value: Set(s[0], s[1], value), span, st.integers(0, 255))


@given(st.lists(st.lists(change, max_size=4), max_size=4))
def test_a_session_commits_all_changes_in_the_order_received(
    commands: list[list[MailboxOp]],
) -> None:
    mailbox, model = Mailbox(data=bytes(SIZE)), bytearray(SIZE)
    for ops in commands:
        mailbox.stage(ops)
        for op in ops:
            data = op.data if isinstance(op, Write) else bytes((op.value,)) * op.length
            model[op.offset : op.offset + len(data)] = data
    assert mailbox.data == bytes(SIZE)
    mailbox.commit()
    assert mailbox.data == bytes(model)
    assert not mailbox.session_open


@given(st.lists(change, max_size=6), st.lists(change, max_size=3))
def test_a_command_with_one_bad_change_stages_nothing(
    good: list[MailboxOp], before: list[MailboxOp]
) -> None:
    mailbox = Mailbox(data=bytes(SIZE))
    mailbox.stage(before)
    kept = mailbox.preview()
    with pytest.raises(MailboxFault):
        mailbox.stage([*good, Write(SIZE, b"x")])
    assert mailbox.preview() == kept


def test_reads_return_old_data_also_in_the_command_that_changes_it() -> None:
    mailbox = Mailbox(data=b"old!")
    assert mailbox.stage([Write(0, b"new"), Read(0, 4)]) == (b"old!",)
    assert mailbox.stage([Read(0, 3), Read(3, 1)]) == (b"old", b"!")
    mailbox.commit()
    assert mailbox.stage([Read(0, 4)]) == (b"new!",)


def test_a_discarded_session_changes_nothing() -> None:
    mailbox = Mailbox(data=b"old!")
    mailbox.stage([Set(0, 4, 0x58)])
    assert mailbox.session_open
    mailbox.discard()
    mailbox.commit()
    assert mailbox.data == b"old!"


def test_preview_is_none_without_changes() -> None:
    mailbox = Mailbox(data=b"old!")
    mailbox.stage([Read(0, 1)])
    assert mailbox.preview() is None


@pytest.mark.parametrize("op", [Read(4, 1), Read(0, 5), Write(3, b"xy"), Set(4, 1, 0)])
def test_out_of_bounds_is_a_fault(op: MailboxOp) -> None:
    with pytest.raises(MailboxFault) as caught:
        Mailbox(data=bytes(4)).stage([op])
    assert caught.value.fault is Fault.BOUNDS


@pytest.mark.parametrize("op", [Read(4, 0), Read(0, 4), Write(4, b""), Set(0, 4, 1)])
def test_up_to_the_end_is_in_bounds(op: MailboxOp) -> None:
    Mailbox(data=bytes(4)).stage([op])


def test_rights_are_separate_for_reading_and_writing() -> None:
    no_read, no_write = Mailbox(data=b"a", readable=False), Mailbox(data=b"a", writable=False)
    for mailbox, op in (
        (no_read, Read(0, 1)),
        (no_write, Write(0, b"b")),
        (no_write, Set(0, 1, 2)),
    ):
        with pytest.raises(MailboxFault) as caught:
            mailbox.stage([op])
        assert caught.value.fault is Fault.RIGHTS
    no_read.stage([Write(0, b"b")])
    assert no_write.stage([Read(0, 1)]) == (b"a",)


def test_a_session_may_not_stage_without_end() -> None:
    mailbox = Mailbox(data=bytes(0xFFFF))
    mailbox.stage([Write(0, bytes(MAX_STAGED - 1))])
    with pytest.raises(MailboxFault):
        mailbox.stage([Write(0, b"xx")])
    mailbox.discard()
    mailbox.stage([Write(0, b"xx")])


def test_the_signaling_bits_say_what_a_reader_may_do() -> None:
    assert Mailbox(data=b"\0").signaling == Signaling.MAILBOX_READ | Signaling.MAILBOX_WRITE
    assert Mailbox(data=b"\1", readable=False, writable=False).signaling == 1 << 3
    assert Mailbox(data=b"\0", readable=False).signaling == Signaling.MAILBOX_WRITE


def test_the_auth1_subset_is_what_the_issuer_chose() -> None:
    assert Mailbox(data=b"abcdef").auth1_part is None
    assert Mailbox(data=b"abcdef", subset=(2, 3)).auth1_part == b"cde"
