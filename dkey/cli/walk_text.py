"""A walk in plain text: one line when something changes."""

from __future__ import annotations

from typing import Any, Final

import click

__all__ = ["Teller", "decision_text"]

_COLOURS: Final = {"TRUSTED": "green", "DOUBTFUL": "yellow", "SUSPICIOUS": "red"}


def decision_text(decided: Any) -> str:
    """Return one decision in words."""
    verdict = decided.verdict
    who = f" for {decided.who}" if decided.who else ""
    if not verdict.granted:
        return f"{decided.asked} refused{who}: {verdict.code}, {verdict.text}"
    nearest = "in the cabin" if decided.nearest_m == 0 else f"{decided.nearest_m:.2f} m off"
    done = "" if decided.moved else ", nothing to do"
    return f"{decided.asked}{who}, {nearest}{done}"


class Teller:
    """Prints what changed from block to block."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, Any]] = {}
        self._told: set[str] = set()

    def tell(self, moment: Any) -> None:
        """Print the lines of one block, if any."""
        at = f"{moment.at_s:7.2f} s  "
        for seen in moment.people:
            now = (seen.zone.zone, seen.trust.level)
            if self._known.get(seen.name) == now:
                continue
            self._known[seen.name] = now
            self._told.clear()
            zone = seen.zone.zone or "not located"
            trust = click.style(seen.trust.level.name.lower(), fg=_COLOURS[seen.trust.level.name])
            why = ", ".join(each.lower() for each in seen.trust.reasons)
            click.echo(f"{at}{seen.name:<10}{zone:<15}{trust}{f' ({why})' if why else ''}")
        for deed in moment.deeds:
            if deed not in ("TOUCH_HANDLE", "PRESS_START"):
                click.secho(f"{at}somebody: {deed.lower().replace('_', ' ')}", dim=True)
        for each in moment.decided:
            text = decision_text(each)
            # A hand that pulls at the handle over and over is refused over and over.
            if text not in self._told or each.verdict.granted:
                click.secho(f"{at}{text}", fg="green" if each.verdict.granted else "yellow")
            self._told.add(text)
        for notice in moment.notices:
            click.echo(f"{at}notice: {notice}")
