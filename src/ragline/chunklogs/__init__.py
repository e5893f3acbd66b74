"""The chunk log, one file a vendor. Not `logs`: that is where log lines go (docs/adr/0015)."""
