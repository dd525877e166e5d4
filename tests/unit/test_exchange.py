"""The plaintext of EXCHANGE, in both directions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkey.access.exchange import (
    SUCCESS,
    ExchangeRequest,
    Fault,
    Read,
    ReaderStatus,
    Set,
    Write,
    failure,
    parse_notice,
    parse_response,
)
from dkey.errors import WireError

u16 = st.integers(0, 0xFFFF)
op = (
    st.builds(Read, u16, u16)
    | st.builds(Write, u16, st.binary(max_size=300))
    | st.builds(Set, u16, u16, st.integers(0, 255))
)


@st.composite
def requests(draw: st.DrawFn) -> ExchangeRequest:
    mailbox = draw(st.none() | st.lists(op, max_size=4).map(tuple))
    return ExchangeRequest(
        mailbox=mailbox,
        keep_session=mailbox is not None and draw(st.booleans()),
        notice=draw(st.none() | st.binary(max_size=250)),
        status=draw(st.none() | u16),
        release_ursk=draw(st.booleans()),
        document_update=draw(st.none() | st.binary(max_size=300)),
    )


@given(requests())
def test_a_request_comes_back_as_it_went(request: ExchangeRequest) -> None:
    assert ExchangeRequest.parse(request.to_bytes(), minimal=True) == request


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_reads_come_back_in_order(reads: list[bytes]) -> None:
    plain = b"".join(len(part).to_bytes(2, "big") + part for part in reads) + SUCCESS
    assert parse_response(plain) == (tuple(reads), 0)


@given(st.binary(max_size=120))
def test_no_parser_fails_with_anything_but_a_wire_error(data: bytes) -> None:
    for parser in (ExchangeRequest.parse, parse_response, parse_notice):
        try:
            parser(data)
        except WireError:
            continue


def test_the_final_status_is_four_bytes() -> None:
    request = ExchangeRequest(status=ReaderStatus.UNSECURE)
    assert request.to_bytes().hex() == "97020101"


def test_every_object_is_in_the_prescribed_order() -> None:
    request = ExchangeRequest(
        mailbox=(Read(1, 2), Write(3, b"\xaa"), Set(4, 5, 6)),
        keep_session=True,
        notice=b"\x82\x02\x00\x01",
        status=ReaderStatus.SECURE,
        release_ursk=True,
        document_update=b"\x01",
    )
    assert request.to_bytes().hex() == (
        "ba15" "8c0101" "870400010002" "8a030003aa" "95050004000506"
        "ae0482020001" "97020100" "9800" "810101"
    )  # fmt: skip


def test_an_empty_request_is_nothing() -> None:
    assert ExchangeRequest.parse(b"") == ExchangeRequest()


def test_an_unknown_outer_tag_is_skipped() -> None:
    assert ExchangeRequest.parse(bytes.fromhex("DF01015597020100")).status == 0x0100


def test_rfu_bits_of_the_session_flag_are_ignored() -> None:
    assert ExchangeRequest.parse(bytes.fromhex("BA038C01FE")).keep_session is False
    assert ExchangeRequest.parse(bytes.fromhex("BA038C01FF")).keep_session is True


@pytest.mark.parametrize(
    "plain",
    [
        "BA00",  # no 8C
        "BA06870400000001",  # no 8C
        "BA068C01008C0100",  # 8C twice
        "BA098704000000018C0100",  # 8C behind a command
        "BA028C00",
        "BA048C020000",
        "BA088C01008703000000",  # a read of three bytes
        "BA068C01008A0100",  # a write without an offset
        "BA098C0100950400000001",  # a set without a value
        "BA058C01008000",  # no mailbox command
        "97020100BA038C0100",  # out of order
        "9702010097020100",
        "970101",
        "980100",
        "97020100FF",
    ],
)
def test_a_malformed_request_is_refused(plain: str) -> None:
    with pytest.raises(WireError):
        ExchangeRequest.parse(bytes.fromhex(plain))


@pytest.mark.parametrize(
    "plain",
    [
        "",
        "00",
        "0002",
        "000200",
        "0000",
        "0001AA",
        "0001000000",  # no result
        "0001AA00020001",  # a failure behind data
        "0002000000",
    ],
)
def test_a_malformed_response_is_refused(plain: str) -> None:
    with pytest.raises(WireError):
        parse_response(bytes.fromhex(plain))


@pytest.mark.parametrize("fault", Fault)
def test_a_failure_is_the_result_and_nothing_else(fault: Fault) -> None:
    assert parse_response(failure(fault)) == ((), fault)
    assert len(failure(fault)) == 4


def test_a_two_byte_read_is_not_taken_for_the_result() -> None:
    assert parse_response(bytes.fromhex("0002FFFF00020000")) == ((b"\xff\xff",), 0)


def test_a_notice_carries_the_reader_error() -> None:
    assert parse_notice(bytes.fromhex("82020026B500")) == ReaderStatus.HARDWARE
    assert parse_notice(b"") is None


@pytest.mark.parametrize("notice", ["9F4000", "820101", "8202000182020001", "B50082020001"])
def test_a_notice_that_is_a_notification_or_malformed_is_refused(notice: str) -> None:
    with pytest.raises(WireError):
        parse_notice(bytes.fromhex(notice))


def test_only_states_are_successes() -> None:
    assert ReaderStatus.UNKNOWN_STATE.success
    assert ReaderStatus.SECURE.success
    assert not ReaderStatus.HARDWARE.success
