"""Options that several commands share, and how a capture is opened for them."""

from __future__ import annotations

import json
import math
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkey.trace.tracer import Tracer

__all__ = ["Seconds", "as_json", "file_path", "print_json", "secrets", "trace_option", "tracing"]

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
trace_option = click.option(
    "--trace",
    "trace",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a capture: FILE.pcapng for Wireshark and FILE.jsonl beside it.",
)
secrets = click.option(
    "--show-secrets", is_flag=True, help="Include session keys in the output and the trace."
)


class Seconds(click.FloatRange):
    """A waiting time, 0.1 to 3600 s."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(0.1, 3600)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the time; what is not a number is refused."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail("not a number of seconds", param, ctx)
        return number


file_path = click.Path(exists=True, dir_okay=False, path_type=Path)


def print_json(value: Any) -> None:
    """Print one JSON object on one line."""
    click.echo(json.dumps(value))


@contextmanager
def tracing(path: Path | None, *, show_secrets: bool = False) -> Iterator[Tracer | None]:
    """Open the capture that ``--trace`` asks for."""
    if path is None:
        yield None
        return
    from dkey.trace.tracer import Tracer  # noqa: PLC0415 - only traced runs need it

    with Tracer(path, clock_ns=time.time_ns, show_secrets=show_secrets) as tracer:
        yield tracer
