"""Generators: one vendor a file, each a `protocols.Generator`."""
