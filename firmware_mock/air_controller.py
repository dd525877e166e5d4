"""One participant of the virtual air: Bumble's virtual controller and host, with repairs.

Bumble 0.0.236 emulates a controller well enough for two devices that never leave each other.
:class:`AirController` and :class:`AirDevice` override what a vehicle and its keys need beyond
that; tests/virtual/test_bumble_defects.py has one test for each repair that shows the original
still failing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bumble import hci, l2cap, ll
from bumble.controller import AdvertisingSet, Connection, Controller, LegacyAdvertiser
from bumble.device import Device
from bumble.snoop import BtSnooper, Snooper

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from firmware_mock.air import Air

__all__ = ["Advert", "AirController", "AirDevice"]

_LE_ACL_OCTETS = 251
_RSSI_UNKNOWN_DBM = 127
_SLOT_S = 0.000_625  # unit of advertising intervals, Core 5.4 Vol 4 Part E §7.8.5
_CONNECTABLE, _SCANNABLE, _SCAN_RESPONSE, _LEGACY = 0x01, 0x02, 0x08, 0x10


@dataclass(frozen=True, slots=True, kw_only=True)
class Advert:
    """One advertising event as it leaves the antenna.

    Attributes:
        address: Address in the PDU.
        data: Advertising data.
        scan_response: What an active scanner gets in answer; sent only if scannable.
        properties: Bit 0 connectable, bit 1 scannable, bit 4 legacy PDU (the event type bits of
            Core 5.4 Vol 4 Part E §7.7.65.13).
    """

    address: hci.Address
    data: bytes
    scan_response: bytes
    properties: int


class _LegacyAdvertiser(LegacyAdvertiser):
    """Advertises at the interval that the host asked for: units of 0.625 ms, not 1 ms."""

    def _on_timer_fired(self) -> None:
        self.send_advertising_data()
        self.timer_handle = asyncio.get_running_loop().call_later(
            self.advertising_interval_min * _SLOT_S, self._on_timer_fired
        )


class AirController(Controller):
    """A virtual Bluetooth LE controller on an :class:`~firmware_mock.air.Air`.

    Attributes:
        air: The air that it is on.
    """

    le_acl_data_packet_length = _LE_ACL_OCTETS
    supported_max_tx_octets = _LE_ACL_OCTETS
    supported_max_rx_octets = _LE_ACL_OCTETS

    def __init__(
        self,
        name: str,
        air: Air,
        *,
        public_address: hci.Address | None = None,
        log: BinaryIO | None = None,
    ) -> None:
        """Join ``air``; ``log`` receives this participant's HCI traffic in btsnoop format."""
        super().__init__(name, link=air, public_address=public_address)
        self.air = air
        self.le_legacy_advertiser = _LegacyAdvertiser(self)
        self._snooper = BtSnooper(log) if log else None

    # -- HCI, host side

    def on_packet(self, packet: bytes) -> None:
        """Take one HCI packet from the host; a controller that left the air is dead."""
        if self not in self.air.controllers:
            return
        if self._snooper:
            self._snooper.snoop(packet, Snooper.Direction.HOST_TO_CONTROLLER)
        super().on_packet(packet)

    def send_hci_packet(self, packet: hci.HCI_Packet) -> None:
        """Send one HCI packet to the host, if there is one."""
        if self not in self.air.controllers:
            return
        data = bytes(packet)
        if self._snooper:
            self._snooper.snoop(data, Snooper.Direction.CONTROLLER_TO_HOST)
        if self.hci_sink is not None:
            asyncio.get_running_loop().call_soon(self.hci_sink.on_packet, data)

    def on_hci_reset_command(
        self, command: hci.HCI_Reset_Command
    ) -> hci.HCI_StatusReturnParameters:
        """Stop everything; the original answers and goes on advertising (Vol 4 Part E §7.3.2)."""
        self.air.abandon(self)
        return super().on_hci_reset_command(command)

    def on_hci_read_rssi_command(
        self, command: hci.HCI_Read_RSSI_Command
    ) -> hci.HCI_Read_RSSI_ReturnParameters:
        """Answer with the RSSI of the peer at the other end (Vol 4 Part E §7.5.4)."""
        connection = self.find_le_connection_by_handle(command.handle)
        if connection is None:
            return hci.HCI_Read_RSSI_ReturnParameters(
                hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
                command.handle,
                _RSSI_UNKNOWN_DBM,
            )
        peer = self.air.other_end(connection)
        rssi_dbm = None if peer is None else self.air.rssi(self, peer)
        return hci.HCI_Read_RSSI_ReturnParameters(
            hci.HCI_ErrorCode.SUCCESS,
            command.handle,
            _RSSI_UNKNOWN_DBM if rssi_dbm is None else rssi_dbm,
        )

    def on_hci_le_set_extended_scan_parameters_command(
        self, command: hci.HCI_LE_Set_Extended_Scan_Parameters_Command
    ) -> hci.HCI_StatusReturnParameters:
        """Remember whether the scan is active, too (Vol 4 Part E §7.8.64)."""
        self.le_scan_type = command.scan_types[0]
        return super().on_hci_le_set_extended_scan_parameters_command(command)

    def on_hci_le_create_connection_cancel_command(
        self,
        command: hci.HCI_LE_Create_Connection_Cancel_Command,  # noqa: ARG002 - no parameters
    ) -> hci.HCI_StatusReturnParameters:
        """End the pending connect and say so in its own event (Vol 4 Part E §7.8.13)."""
        pending, self.pending_le_connection = self.pending_le_connection, None
        if pending is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        event = hci.HCI_LE_Connection_Complete_Event(
            status=hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
            connection_handle=0,
            role=0,
            peer_address_type=pending.peer_address.address_type,
            peer_address=pending.peer_address,
            connection_interval=0,
            peripheral_latency=0,
            supervision_timeout=0,
            central_clock_accuracy=0,
        )
        asyncio.get_running_loop().call_soon(self.send_hci_packet, event)
        return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.SUCCESS)

    # -- air side

    def send_advertising_pdu(self, packet: ll.AdvertisingPdu) -> None:
        """Send an advertising event to all, or a connection request to the advertiser."""
        if isinstance(packet, ll.ConnectInd):
            self.air.request_link(packet)
        elif isinstance(packet, ll.AdvInd | ll.AdvExtInd):
            source = self._advertiser(packet.advertiser_address)
            if source is not None:
                self.air.broadcast(
                    self,
                    Advert(
                        address=packet.advertiser_address,
                        data=bytes(packet.data),
                        scan_response=bytes(source.scan_response_data),
                        properties=_properties(source),
                    ),
                )

    def hear(self, sender: AirController, advert: Advert, rssi_dbm: int) -> None:
        """Report ``advert`` to a scanning host, and connect if the host waits for its sender."""
        if self.le_scan_enable:
            self._report(advert, rssi_dbm)
        pending = self.pending_le_connection
        if (
            pending is not None
            and pending.peer_address == advert.address
            and advert.properties & _CONNECTABLE
            # A faster central may have taken the advertiser since: then wait for its next event.
            and sender.advertises(advert.address)
        ):
            self.create_le_connection(advert.address)

    def advertises(self, address: hci.Address) -> bool:
        """Return whether an enabled advertiser here uses ``address``."""
        return self._advertiser(address) is not None

    def fall_silent(self) -> None:
        """Stop advertising, scanning and connecting."""
        self.le_legacy_advertiser.stop()
        for advertising_set in self.advertising_sets.values():
            advertising_set.stop()
        self.le_scan_enable = False
        self.pending_le_connection = None

    def lose(self, connection: Connection) -> None:
        """End ``connection`` by supervision timeout, unless it ended before."""
        if self.le_connections.get(connection.peer_address) is connection:
            self.on_le_disconnected(connection, hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)

    def _advertiser(self, address: hci.Address) -> LegacyAdvertiser | AdvertisingSet | None:
        legacy = self.le_legacy_advertiser
        if legacy.enabled and legacy.address == address:
            return legacy
        for each in self.advertising_sets.values():
            if each.enabled and each.address == address:
                return each
        return None

    def _report(self, advert: Advert, rssi_dbm: int) -> None:
        extended = bool(self.le_features & hci.LeFeatureMask.LE_EXTENDED_ADVERTISING)
        if not extended and not advert.properties & _LEGACY:
            return  # an older controller cannot hear extended advertising
        report = _extended_report if extended else _legacy_report
        self.send_hci_packet(report(advert, advert.properties, advert.data, rssi_dbm))
        if advert.properties & _SCANNABLE and self.le_scan_type:
            answer = advert.properties | _SCAN_RESPONSE
            self.send_hci_packet(report(advert, answer, advert.scan_response, rssi_dbm))


def _properties(source: LegacyAdvertiser | AdvertisingSet) -> int:
    if isinstance(source, AdvertisingSet):
        known = source.parameters.advertising_event_properties if source.parameters else 0
        return int(known) & (_CONNECTABLE | _SCANNABLE | _LEGACY)
    return _CONNECTABLE | _SCANNABLE | _LEGACY  # ADV_IND, the only legacy type that Bumble sends


def _extended_report(
    advert: Advert, properties: int, data: bytes, rssi_dbm: int
) -> hci.HCI_LE_Extended_Advertising_Report_Event:
    event = hci.HCI_LE_Extended_Advertising_Report_Event
    return event(
        [
            event.Report(
                event_type=event.EventType(properties),
                address_type=advert.address.address_type,
                address=advert.address,
                primary_phy=hci.Phy.LE_1M,
                secondary_phy=hci.Phy(0 if properties & _LEGACY else hci.Phy.LE_1M),
                advertising_sid=event.NO_ADI_FIELD_PROVIDED if properties & _LEGACY else 0,
                tx_power=event.TX_POWER_INFORMATION_NOT_AVAILABLE,
                rssi=rssi_dbm,
                periodic_advertising_interval=0,
                direct_address_type=hci.AddressType.PUBLIC_DEVICE,
                direct_address=hci.Address.ANY,
                data=data,
            )
        ]
    )


def _legacy_report(
    advert: Advert, properties: int, data: bytes, rssi_dbm: int
) -> hci.HCI_LE_Advertising_Report_Event:
    event = hci.HCI_LE_Advertising_Report_Event
    if properties & _SCAN_RESPONSE:
        kind = event.EventType.SCAN_RSP
    elif properties & _CONNECTABLE:
        kind = event.EventType.ADV_IND
    else:
        kind = (
            event.EventType.ADV_SCAN_IND
            if properties & _SCANNABLE
            else event.EventType.ADV_NONCONN_IND
        )
    return event(
        [
            event.Report(
                event_type=kind,
                address_type=advert.address.address_type,
                address=advert.address,
                data=data,
                rssi=rssi_dbm,
            )
        ]
    )


class AirDevice(Device):
    """Bumble's host with two repairs; works on any HCI transport, virtual or real."""

    async def update_rpa(self) -> bool:
        """Take a new resolvable private address, here and in the controller.

        Returns False, and changes nothing, while advertising, scanning or connecting.
        """
        if self.is_advertising or self.is_scanning or self.is_le_connecting:
            return False
        address = hci.Address.generate_private_address(self.irk)
        await self.send_sync_command(hci.HCI_LE_Set_Random_Address_Command(random_address=address))
        self.random_address = address
        return True

    def create_l2cap_server(
        self,
        spec: Any,
        handler: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Serve L2CAP channels as the original does, but let a peer use a channel number again.

        The original keeps a closed LE channel in the table of the peer's numbers until the link
        drops, and refuses the next channel that has the same number.
        """
        if not isinstance(spec, l2cap.LeCreditBasedChannelSpec):
            return super().create_l2cap_server(spec, handler)

        def opened(channel: l2cap.LeCreditBasedChannel) -> None:
            channel.on(channel.EVENT_CLOSE, lambda: _release_number(channel))
            if handler is not None:
                handler(channel)

        return super().create_l2cap_server(spec, opened)


def _release_number(channel: l2cap.LeCreditBasedChannel) -> None:
    numbers = channel.manager.le_coc_channels.get(channel.connection.handle, {})
    if numbers.get(channel.destination_cid) is channel:
        del numbers[channel.destination_cid]
