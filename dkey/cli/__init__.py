"""The command line. Each command is imported when it is used, so that help is quick."""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

from dkey.errors import DkeyError, LinkError, LocalFault

__all__ = ["main"]

COMMANDS: Final = {
    "demo": ("dkey.cli.demo", "Watch the whole story with no hardware."),
    "doctor": ("dkey.cli.doctor", "Check readers, conflicts and how to fix them."),
    "links": ("dkey.cli.links", "List every link string usable here."),
    "agent": ("dkey.cli.agent", "Pair with a vehicle, unlock, lock, start it from this phone."),
    "key": ("dkey.cli.key", "List, share, suspend, revoke and transfer keys."),
    "tap": ("dkey.cli.tap", "Run one transaction in the reader role, step by step."),
    "device": ("dkey.cli.device", "Serve the device role for someone else's reader."),
    "card": ("dkey.cli.card", "Emulate, pair, list and replace card keys."),
    "walk": ("dkey.cli.walk", "Walk up to a simulated vehicle and watch what it decides."),
    "vehicle": ("dkey.cli.vehicle", "Create and run the mock vehicle."),
    "relay": ("dkey.cli.relay", "Run a mailbox server for key invitations."),
    "uwb": ("dkey.cli.uwb", "Serve a virtual UWB subsystem."),
    "authority": ("dkey.cli.authority", "Run the back-end that holds accounts and shares."),
    "trace": ("dkey.cli.trace", "Show, convert and redact captures."),
    "vectors": ("dkey.cli.vectors", "Check known-answer files."),
}
"""Command name to the module that has it as ``cli``, and its one line of help."""

REFUSED: Final = 1
USAGE: Final = 2
LINK: Final = 3
INTERNAL: Final = 4


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the command names in the order of the table."""
        return [*COMMANDS]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).cli
        return command if isinstance(command, click.Command) else None

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the command list from the table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version  # noqa: PLC0415 - only this option needs it

        click.echo(f"dkey {version('dkey')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Print the version and exit.",
)
@click.option("-v", "--verbose", count=True, help="Log more; -vvv logs frames.")
@click.option("--debug", is_flag=True, help="Show a traceback for internal errors.")
@click.pass_context
def cli(ctx: click.Context, verbose: int, debug: bool) -> None:
    """An open digital-key stack for vehicles over NFC, BLE and UWB.

    Start with `dkey demo`: a phone and a card open, lock and start a mock vehicle.

    Exit codes: 0 ok, 1 refused by the peer or by policy, 2 usage or a bad file, 3 link,
    4 internal error.
    """
    ctx.obj = {"debug": debug}
    if verbose:
        import logging  # noqa: PLC0415 - only this option needs it

        level = {1: logging.INFO, 2: logging.DEBUG}.get(verbose, 5)
        logging.basicConfig(level=level, format="%(levelname)-7s %(name)s: %(message)s")


def explain(exc: DkeyError) -> str:
    """Return an error as what, why, try."""
    lines = [f"error: {Exception.__str__(exc)}"]
    if exc.clause:
        lines.append(f"  why: {exc.clause}")
    if exc.hint:
        lines.append(f"  try: {exc.hint}")
    return "\n".join(lines)


def exit_code(exc: DkeyError) -> int:
    """Return the exit code for an error."""
    if isinstance(exc, LinkError):
        return LINK
    return USAGE if isinstance(exc, LocalFault) else REFUSED


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit."""
    words = sys.argv[1:] if args is None else args
    try:
        code = cli.main(words, prog_name="dkey", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except DkeyError as exc:
        click.echo(explain(exc), err=True)
        sys.exit(exit_code(exc))
    except BrokenPipeError:
        sys.exit(0)
    except Exception as exc:
        if "--debug" in words:
            raise
        click.echo(
            f"internal error: {type(exc).__name__}: {exc}\n"
            "  try: run again with `dkey --debug …` and report the traceback",
            err=True,
        )
        sys.exit(INTERNAL)
