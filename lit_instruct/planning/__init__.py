"""What a stage will need of memory, disk and time, computed from its options and its model's configuration alone."""
