"""Side by side with peers, and at scale: one command each, results as JSON in benchmarks/results."""
