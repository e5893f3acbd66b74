"""Prove that it goes on answering: load, faults, experiments and their report. Nothing of the service imports this."""
