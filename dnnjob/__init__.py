"""Tabular DNN regression as one job: train, predict and report, from a laptop to a cluster."""

__version__ = "0.1.0"
