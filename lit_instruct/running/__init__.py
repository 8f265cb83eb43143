"""Runs of a stage: command line, callbacks, checkpoints, processes."""
