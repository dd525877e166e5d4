"""The layouts that come with dkey, as package data."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from dkey.errors import LocalFault
from dkey.ranging.layout import Layout, parse_layout

__all__ = ["SHIPPED", "shipped_layout"]

SHIPPED: Final = ("saloon", "suv", "coupe-4anchor")


def shipped_layout(name: str) -> Layout:
    """Return a shipped layout.

    Raises:
        LocalFault: There is none of this name.
    """
    if name not in SHIPPED:
        raise LocalFault(f"no layout {name!r} is shipped", hint=f"take one of {', '.join(SHIPPED)}")
    return parse_layout(files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
