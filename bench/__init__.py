"""What Ragline promises about speed and quality, measured: `make bench`, or `python -m bench.run --help`."""
