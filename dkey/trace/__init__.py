"""Traces of any link: pcapng for Wireshark, JSONL for programs, with secrets left out."""
