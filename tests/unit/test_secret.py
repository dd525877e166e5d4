"""Secret bytes do not show, copy or leak themselves."""

from __future__ import annotations

import copy
import logging
import pickle

import pytest

from dkey.crypto.secret import Secret

VALUE = b"correct horse"


def test_a_secret_reveals_its_bytes_when_asked() -> None:
    assert Secret(VALUE).reveal() == VALUE


def test_a_secret_does_not_change_with_its_source() -> None:
    source = bytearray(VALUE)
    secret = Secret(source)  # type: ignore[arg-type]
    source[0] = 0
    assert secret.reveal() == VALUE


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{:>40}".format, "%s".__mod__, ascii])
def test_no_text_form_shows_the_bytes(show: object) -> None:
    text = show(Secret(VALUE))  # type: ignore[operator]
    assert "correct" not in text
    assert VALUE.hex() not in text
    assert "13 secret bytes" in text


def test_a_log_record_does_not_show_the_bytes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("dkey.test").debug("key %s in %r", Secret(VALUE), [Secret(VALUE)])
    assert "correct" not in caplog.text


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_secret_is_never_pickled_or_copied(duplicate: object) -> None:
    with pytest.raises(TypeError, match="vault"):
        duplicate(Secret(VALUE))  # type: ignore[operator]


def test_a_secret_is_no_dictionary_key() -> None:
    with pytest.raises(TypeError):
        hash(Secret(VALUE))


def test_secrets_are_equal_by_their_bytes() -> None:
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret(VALUE[:-1])


def test_a_secret_never_equals_plain_bytes() -> None:
    assert Secret(VALUE) != VALUE


def test_the_length_is_not_secret() -> None:
    assert len(Secret(VALUE)) == 13


def test_a_secret_has_no_place_for_other_attributes() -> None:
    with pytest.raises(AttributeError):
        Secret(VALUE).note = "x"  # type: ignore[attr-defined]
