# ruff: noqa: INP001 - a script beside the pages that it draws
"""Rewrites the drawn blocks of the specification from the code.

Usage: ``python specs/draw.py [--check]``. A block stands between ``<!-- drawn: NAME -->`` and
``<!-- end -->``. With ``--check`` nothing is written; a difference is printed and the exit code
is 1.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from dkey.access import ble_rules, device_states, profile  # noqa: E402 - the tree is found first
from dkey.agent import store_schema as agent_schema  # noqa: E402
from dkey.control import (  # noqa: E402
    card_rules,
    card_window,
    intent,
    owner_window,
    remote,
    touch,
)
from dkey.errors import RefusalCode  # noqa: E402
from dkey.lifecycle import policy  # noqa: E402
from dkey.lifecycle.flags import Flags  # noqa: E402
from dkey.lifecycle.ring_rules import RIGHTS  # noqa: E402
from dkey.lifecycle.roles import Role  # noqa: E402
from dkey.pairing import card, owner  # noqa: E402
from firmware_mock import store_schema  # noqa: E402
from tests import attacks  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

BLOCK = re.compile(r"(<!-- drawn: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
NO_RAISERS = ("cli", "conformance", "errors.py")
MOCK_RAISERS = (
    *(
        "ble_desk.py",
        "ble_phone.py",
        "card_desk.py",
        "key_list.py",
        "outcome.py",
        "owner_attempt.py",
    ),
    *("owner_desk.py", "store.py", "store_transaction.py", "vehicle.py"),
)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    ]


# --- rules and constants --------------------------------------------------------------------------


def rules(rows: Iterable[Any]) -> list[str]:
    """Draw a rule table in the order in which it is walked."""
    return table(
        ("#", "refused with", "when", "source"),
        ((at, f"`{rule.code}`", rule.text, rule.source) for at, rule in enumerate(rows, 1)),
    )


def constants(*names: str) -> list[str]:
    """Draw policy constants with the text that stands below each."""
    body = ast.parse(Path(policy.__file__).read_text(encoding="utf-8")).body
    texts = {
        node.target.id: ast.literal_eval(after.value)
        for node, after in pairwise(body)
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(after, ast.Expr)
    }
    rows = ((f"`{name}`", f"{getattr(policy, name):g}", texts[name]) for name in names)
    return table(("constant", "value", "meaning and source"), rows)


def identifiers() -> list[str]:
    """Draw the identifiers that stand in the code."""
    return table(
        ("what", "value", "where"),
        (
            (
                "access AID",
                f"`{profile.VEHICLE.access_aid.hex().upper()}`",
                "`dkey.access.profile`",
            ),
            ("owner pairing AID", f"`{owner.OWNER_AID.hex().upper()}`", "`dkey.pairing.owner`"),
            ("card pairing AID", f"`{card.CARD_AID.hex().upper()}`", "`dkey.pairing.card`"),
            ("vendor extension OUI", f"`{intent.OUI.hex().upper()}`", "`dkey.control.intent`"),
        ),
    )


def profiles() -> list[str]:
    """Draw both wire profiles side by side."""
    both = (profile.ALIRO, profile.VEHICLE)
    rows = (
        (f"`{name}`", *(shown(getattr(each, name)) for each in both))
        for name in profile.Profile.__dataclass_fields__
    )
    return table(("field of a profile", "`aliro`", "`vehicle`"), rows)


def shown(value: Any) -> str:
    """Return one field of a profile as text."""
    if isinstance(value, tuple):
        return ", ".join(shown(each) for each in value)
    if isinstance(value, bytes):
        return f"`{value.hex().upper()}`"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def rights() -> list[str]:
    """Draw who may do what to whose key, by operation."""
    rows = (
        (
            f"`{right.operation}`",
            f"`{right.who}`",
            ", ".join(f"`{role}`" for role in Role if role in right.targets) or "the vehicle",
            "yes" if right.standing else "no",
            right.source,
        )
        for right in RIGHTS
    )
    return table(("operation", "who", "to keys of", "own key must be usable", "source"), rows)


def flags() -> list[str]:
    """Draw the choices of a deployment with the text of each; its source stands in brackets."""
    told = re.findall(
        r"^    (\w+): ((?:.|\n(?!    \S))+)", inspect.getdoc(Flags) or "", re.MULTILINE
    )
    texts = {name: " ".join(text.split()) for name, text in told}
    rows = (
        (f"`{name}`", f"`{shown(each.default)}`", texts[name])
        for name, each in Flags.__dataclass_fields__.items()
    )
    return table(("flag", "default", "meaning and source"), rows)


# --- refusals -------------------------------------------------------------------------------------


def meanings() -> dict[str, list[str]]:
    """Return code to meaning and source."""
    return tomllib.loads((HERE / "refusals.toml").read_text(encoding="utf-8"))


def raised() -> dict[str, list[str]]:
    """Return code to the files that refuse with it; comparisons and dictionary keys are no use."""
    stack = ROOT / "dkey"
    files = sorted(stack.rglob("*.py"))
    files = [file for file in files if file.relative_to(stack).parts[0] not in NO_RAISERS]
    files += [ROOT / "firmware_mock" / name for name in MOCK_RAISERS]
    found: dict[str, list[str]] = {}
    for file in files:
        for code in sorted(set(codes(ast.parse(file.read_text(encoding="utf-8"))))):
            found.setdefault(code, []).append(f"`{file.relative_to(ROOT).as_posix()}`")
    return found


def codes(node: ast.AST) -> Iterator[str]:
    """Yield the codes that this piece of source refuses with."""
    if isinstance(node, ast.Compare):
        return
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "RefusalCode":
        yield node.attr
    for child in node.values if isinstance(node, ast.Dict) else ast.iter_child_nodes(node):
        yield from codes(child)


def refusals() -> list[str]:
    """Draw every refusal code."""
    texts, places = meanings(), raised()
    rows = ((f"`{c}`", *texts[c], "<br>".join(places.get(c, ["later"]))) for c in RefusalCode)
    return table(("code", "meaning", "source", "raised in"), rows)


# --- states ---------------------------------------------------------------------------------------


def device_moves() -> list[tuple[Any, str, tuple[Any, ...]]]:
    """Return the transitions of the device role as state, input, next states."""
    moves = (
        (state, ins.name.replace("_", " "), to)
        for (state, ins), to in device_states.TRANSITIONS.items()
    )
    return list(moves)


def ble_moves(table: ble_rules.Transitions) -> list[tuple[Any, str, tuple[Any, ...]]]:
    """Return the transitions of a BLE session."""
    return [(state, what.value, to) for (state, what), to in table.items()]


def window_moves() -> list[tuple[Any, str, tuple[Any, ...]]]:
    """Return the transitions of the card pairing window."""
    moves = ((state, what.value, (to,)) for (state, what), to in card_window.TRANSITIONS.items())
    return list(moves)


def states(moves: list[tuple[Any, str, tuple[Any, ...]]]) -> list[str]:
    """Draw a state table."""
    rows = (
        (state.value, what, " or ".join(each.value for each in to)) for state, what, to in moves
    )
    return table(("state", "input", "next state"), rows)


def diagram(
    moves: list[tuple[Any, str, tuple[Any, ...]]], first: Any, always: Sequence[str]
) -> list[str]:
    """Draw a state diagram in Mermaid."""
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    {state.name} : {state.value}" for state in type(first)]
    lines += [f"    [*] --> {first.name}"]
    lines += [
        f"    {state.name} --> {each.name} : {what}" for state, what, to in moves for each in to
    ]
    return [*lines, *(f"    {line}" for line in always), "```"]


def device_diagram() -> list[str]:
    """Draw the device role, with what every state takes."""
    ended = device_states.DeviceState.ENDED.name
    always = [
        f"{s.name} --> {ended} : CONTROL FLOW, or a failure"
        for s in device_states.DeviceState
        if s.name != ended
    ]
    return diagram(
        device_moves(),
        device_states.DeviceState.SELECTED,
        [*always, f"{ended} --> SELECTED : SELECT"],
    )


# --- storage, attacks -----------------------------------------------------------------------------


def schema(tables: Mapping[str, Sequence[str]]) -> list[str]:
    """Draw the tables of a store."""
    rows = ((f"`{name}`", ", ".join(columns)) for name, columns in tables.items())
    return table(("table", "columns under the digest, in digest order"), rows)


def attack_cases() -> list[str]:
    """Draw the cases that are played, by number of the catalogue."""
    rows = (
        (case.number, case.title, f"`tests/attacks/cases/{case.module}.py`", len(case.broken))
        for case in attacks.load()
    )
    return table(("#", "what is shown", "where", "broken builds"), rows)


BLOCKS: dict[str, Callable[[], list[str]]] = {
    "agent-schema": lambda: schema(agent_schema.LAYOUT.columns),
    "attack-cases": attack_cases,
    "ble-device-states": lambda: states(ble_moves(ble_rules.DEVICE_TRANSITIONS)),
    "ble-reader-states": lambda: states(ble_moves(ble_rules.READER_TRANSITIONS)),
    "card-constants": lambda: constants("INITIAL_CARDS", "MAX_CARDS", "CARD_PAIRING_WINDOW_S"),
    "card-rules": lambda: rules(card_rules.CARD_PAIRING_RULES),
    "device-diagram": device_diagram,
    "device-states": lambda: states(device_moves()),
    "flags": flags,
    "handle-rules": lambda: rules(touch.HANDLE_RULES),
    "identifiers": identifiers,
    "owner-constants": lambda: constants(
        "CODE_MAX_TRIES", "CODE_TIMEOUT_MIN", "CODE_RESENDS_PER_HOUR"
    ),
    "owner-rules": lambda: rules(owner_window.OWNER_PAIRING_RULES),
    "owner-window-states": lambda: states(
        [(state, what.value, to) for (state, what), to in owner_window.TRANSITIONS.items()]
    ),
    "profiles": profiles,
    "refusals": refusals,
    "remote-constants": lambda: constants(
        "REMOTE_REPEAT_S", "SMARTKEY_LOCK_COOLDOWN_S", "HORN_AUTO_OFF_S"
    ),
    "rights": rights,
    "ring-constants": lambda: constants(
        *(
            "MAX_SHARES",
            "MAX_CHAIN",
            "MAX_UNTOLD_EPOCHS",
            "MAX_CARDS",
            "INITIAL_CARDS",
            "PROVIDER_GRACE_MIN",
        ),
        *("PAUSE_DAYS", "PAUSE_EXT_DAYS", "PAUSE_PER_YEAR", "PAUSE_NOTICE_DAYS"),
        *("SUSPEND_NOTICE_DAYS", "TERMINATE_NOTICE_DAYS", "TRANSFER_NOTICE_MONTHS"),
        *("LOG_RETENTION_MONTHS", "MAX_WITHDRAWN", "MAX_ENDED_SHARES", "MAX_ACCOUNT"),
    ),
    "remote-rules": lambda: rules(remote.REMOTE_RULES),
    "schema": lambda: schema(store_schema.COLUMNS),
    "start-rules": lambda: rules(touch.START_RULES),
    "touch-constants": lambda: constants("TAP_DEBOUNCE_S", "PAD_GRACE_S"),
    "window-diagram": lambda: diagram(window_moves(), card_window.WindowState.CLOSED, ()),
    "window-states": lambda: states(window_moves()),
}


def redrawn(text: str) -> str:
    """Return a document with every block drawn anew."""
    return BLOCK.sub(lambda m: m[1] + "\n".join(BLOCKS[m[2]]()) + "\n" + m[3], text)


def main(args: list[str]) -> int:
    """Draw all documents, or compare them."""
    differences = 0
    for file in sorted(HERE.glob("*.md")):
        old = file.read_text(encoding="utf-8")
        new = redrawn(old)
        if old == new:
            continue
        if args != ["--check"]:
            file.write_text(new, encoding="utf-8")
            continue
        differences += 1
        names = (f"{file.name} as it is", f"{file.name} from the code")
        sys.stdout.writelines(
            difflib.unified_diff(
                old.splitlines(keepends=True), new.splitlines(keepends=True), *names
            )
        )
    if differences:
        print("run: python specs/draw.py")  # noqa: T201 - the way to mend it
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
