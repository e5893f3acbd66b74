"""Rerankers: one file a vendor. See `protocols.Reranker`."""
