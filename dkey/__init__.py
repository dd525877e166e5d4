"""An open digital-key stack for vehicles over NFC, BLE and UWB."""
