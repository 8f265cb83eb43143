"""The memory, disk space and time of a stage, computed from its options and its model's configuration alone."""
