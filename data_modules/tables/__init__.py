"""Tokenised rows as memory-mapped tables in a cache."""
