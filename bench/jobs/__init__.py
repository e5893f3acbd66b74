"""The job path under kills, and what it costs: see `__main__`."""
