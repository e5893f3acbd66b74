"""`ragline cache`."""

from __future__ import annotations

from .conftest import Shell


def test_stats_forget_and_clear(shell: Shell) -> None:
    shell("ingest", "-", "--uri", "bees.txt", stdin=b"Bees dance to tell where flowers are.")
    while not shell("search", "Where are flowers?", "--top-k", "1", "--json").json["cached"]:
        pass  # within a second of a change what is found is served, and not kept
    assert "bees.txt" in shell("search", "Where are flowers?", "--top-k", "1").out
    stats = shell("cache", "stats", "--json").json
    assert stats["cache"] == "memory"
    assert stats["requests"]["search"]["hit"] >= 1
    shown = shell("cache", "stats").out
    assert "hit ratio" in shown
    assert "search queries" in shown
    assert shell("cache", "forget", "--document", "bees.txt").out == "Forgotten: whatever was cached of bees.txt.\n"
    assert not shell("search", "Where are flowers?", "--top-k", "1", "--json").json["cached"]
    assert "entries of default removed." in shell("cache", "clear", "--namespace", "default").out
    assert "does not exist" in shell("cache", "clear", "--namespace", "nowhere", code=1).err
    shell("cache", "forget", "--document", "nowhere.txt", code=1)
