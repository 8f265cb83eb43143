"""What makes a run a run: command line, callbacks, checkpoints, processes."""
