"""How a uri is written. The ingest path names documents by it; the CLI compares a folder's files with them."""

from __future__ import annotations


def clean(uri: str) -> str:
    """Control characters percent-encoded: a uri is shown on terminals and in logs."""
    return "".join(f"%{ord(c):02X}" if ord(c) < 32 or ord(c) == 127 else c for c in uri)
