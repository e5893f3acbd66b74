"""Ragline: documents in, cited answers out, at a latency and an availability it can state, alarm on and prove."""

__version__ = "0.1.0"
