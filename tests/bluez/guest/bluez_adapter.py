"""Wait for bluetoothd's adapter and switch it on, over D-Bus."""

from __future__ import annotations

import asyncio

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from processes import Failed

__all__ = ["power_on"]

_ADAPTER = "org.bluez.Adapter1"
_RULES = (
    "type='signal',sender='org.bluez'",
    "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='org.bluez'",
)


def power_on(timeout_s: float = 30.0) -> str:
    """Return the D-Bus path of the first adapter once it is powered.

    Raises:
        Failed: there is none, or it stays off.
    """
    return asyncio.run(_power_on(timeout_s))


async def _power_on(timeout_s: float) -> str:
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    news = asyncio.Event()
    bus.add_message_handler(lambda message: _note(message, news))
    path = None
    try:
        for rule in _RULES:
            await _call(bus, "org.freedesktop.DBus", "/", "AddMatch", "s", rule)
        async with asyncio.timeout(timeout_s):
            while True:
                news.clear()
                adapters = await _adapters(bus)
                for path, powered in adapters.items():
                    if powered:
                        return path
                    await _set_powered(bus, path)
                await news.wait()
    except TimeoutError as exc:
        raise Failed("no adapter" if path is None else f"{path} stays off") from exc
    finally:
        bus.disconnect()


def _note(message: Message, news: asyncio.Event) -> None:
    if message.message_type is MessageType.SIGNAL:
        news.set()


async def _adapters(bus: MessageBus) -> dict[str, bool]:
    reply = await bus.call(
        Message("org.bluez", "/", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
    )
    if reply is None or reply.message_type is not MessageType.METHOD_RETURN:
        return {}  # bluetoothd is on its way
    return {
        path: bool(faces[_ADAPTER]["Powered"].value)
        for path, faces in reply.body[0].items()
        if _ADAPTER in faces
    }


async def _set_powered(bus: MessageBus, path: str) -> None:
    await bus.call(
        Message(
            "org.bluez",
            path,
            "org.freedesktop.DBus.Properties",
            "Set",
            signature="ssv",
            body=[_ADAPTER, "Powered", Variant("b", True)],
        )
    )


async def _call(bus: MessageBus, to: str, path: str, member: str, kind: str, text: str) -> None:
    await bus.call(Message(to, path, to, member, signature=kind, body=[text]))
