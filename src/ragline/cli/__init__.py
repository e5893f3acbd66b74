"""The command line. Every command but `up`, `serve` and `doctor` talks HTTP to a Ragline server: see `connection`."""
