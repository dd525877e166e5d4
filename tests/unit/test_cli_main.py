"""The command line as a whole: help, exit codes, and how errors read."""

from __future__ import annotations

import contextlib
import io
import sys
from importlib.metadata import version
from types import ModuleType
from typing import NamedTuple

import click
import pytest

from dkey import errors
from dkey.cli import COMMANDS, main
from dkey.errors import DkeyError, LinkError, LinkReason, LocalFault, PolicyRefusal, RefusalCode


class Ran(NamedTuple):
    """What one run of the command line came to."""

    code: int
    out: str
    err: str


def run(*words: object, out: io.StringIO | None = None) -> Ran:
    """Run ``dkey WORDS`` in this process; no run may show a traceback."""
    out, err = out or io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main([str(word) for word in words])
    assert "Traceback" not in out.getvalue() + err.getvalue()
    code = ended.value.code
    assert isinstance(code, int)
    return Ran(code, out.getvalue(), err.getvalue())


def explained(ran: Ran) -> list[str]:
    """Return the lines of the one error that a run ended with: what, why, try."""
    lines = ran.err.splitlines()
    begin = [at for at, line in enumerate(lines) if line.lower().startswith("error:")]
    assert len(begin) == 1, ran.err
    return lines[begin[0] :]


def subclasses(kind: type[DkeyError]) -> list[type[DkeyError]]:
    """Return ``kind`` and what is below it in dkey.errors, whatever else is imported."""
    below = [each for each in kind.__subclasses__() if each.__module__ == errors.__name__]
    return [kind, *(deeper for each in below for deeper in subclasses(each))]


def made(kind: type[DkeyError]) -> DkeyError:
    if issubclass(kind, errors.StatusError):
        return kind("AUTH1", 0x6982)
    return kind("it broke", clause="rule 7", hint="mend it")


@pytest.fixture
def boom(monkeypatch):
    """A command ``boom`` that raises what it is given."""

    def command_raising(error: BaseException):
        module = ModuleType("boom_command")

        @click.command("boom")
        def cli() -> None:
            raise error

        module.cli = cli
        monkeypatch.setitem(sys.modules, "boom_command", module)
        monkeypatch.setitem(COMMANDS, "boom", ("boom_command", "Fails."))

    return command_raising


def test_help_lists_every_command_with_its_line():
    ran = run("--help")
    assert ran.code == 0
    for name, (_, text) in COMMANDS.items():
        assert any(line.split() == [name, *text.split()] for line in ran.out.splitlines())


def test_no_command_shows_the_help_and_is_a_usage_error():
    ran = run()
    assert ran.code == 2
    assert "Commands:" in ran.out + ran.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_each_option_is_explained_or_shows_its_form(name):
    ran = run(name, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: dkey {name}")
    assert ran.err == ""


def test_version_is_that_of_the_package():
    assert run("--version") == (0, f"dkey {version('dkey')}\n", "")


@pytest.mark.parametrize("words", [["nope"], ["tap", "--nope"], ["device", "nope"], ["tap"]])
def test_a_command_or_option_that_is_not_there_is_a_usage_error(words):
    ran = run(*words)
    assert ran.code == 2
    assert ran.err.startswith("Usage: dkey")


@pytest.mark.parametrize("kind", subclasses(LocalFault), ids=lambda kind: kind.__name__)
def test_every_local_fault_is_exit_2(boom, kind):
    boom(made(kind))
    assert run("boom").code == 2


@pytest.mark.parametrize("kind", subclasses(errors.RemoteFault), ids=lambda kind: kind.__name__)
def test_every_remote_fault_is_exit_1(boom, kind):
    boom(made(kind))
    assert run("boom").code == 1


@pytest.mark.parametrize("code", RefusalCode)
def test_every_refusal_is_exit_1(boom, code):
    boom(PolicyRefusal(code))
    assert run("boom").code == 1


@pytest.mark.parametrize("reason", LinkReason)
def test_every_link_error_is_exit_3(boom, reason):
    boom(LinkError(reason, "no link"))
    assert run("boom").code == 3


@pytest.mark.parametrize("error", [ValueError("odd"), KeyError("x"), OSError("disk")])
def test_anything_else_is_an_internal_error_that_says_how_to_report_it(boom, error):
    boom(error)
    ran = run("boom")
    assert ran.code == 4
    assert ran.out == ""
    first, second = ran.err.splitlines()
    assert first.startswith(f"internal error: {type(error).__name__}")
    assert "--debug" in second


def test_debug_lets_the_traceback_of_an_internal_error_through(boom):
    boom(ValueError("odd"))
    with pytest.raises(ValueError, match="odd"):
        main(["--debug", "boom"])


def test_debug_does_not_turn_an_explained_error_into_a_traceback(boom):
    boom(LocalFault("it broke"))
    assert run("--debug", "boom").code == 2


def test_an_error_reads_what_why_try_on_standard_error_only(boom):
    boom(LocalFault("it broke", clause="rule 7", hint="mend it"))
    assert run("boom") == (2, "", "error: it broke\n  why: rule 7\n  try: mend it\n")


def test_an_error_without_source_and_hint_is_one_line(boom):
    boom(LocalFault("it broke"))
    assert run("boom").err == "error: it broke\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_is_exit_130_and_one_word(boom, error):
    boom(error)
    ran = run("boom")
    assert ran.code == 130
    assert ran.err.split() == ["stopped"]


def test_a_reader_of_the_output_that_left_is_no_error(boom):
    boom(BrokenPipeError())
    assert run("boom") == (0, "", "")


def test_a_command_that_returns_nothing_is_exit_0(monkeypatch):
    module = ModuleType("fine_command")
    module.cli = click.Command("fine", callback=lambda: None)
    monkeypatch.setitem(sys.modules, "fine_command", module)
    monkeypatch.setitem(COMMANDS, "fine", ("fine_command", "Does nothing."))
    assert run("fine") == (0, "", "")
