"""`lit-instruct data inspect`: what is in a dataset, and what training would do with it."""
