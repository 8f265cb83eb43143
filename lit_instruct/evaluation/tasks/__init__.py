"""Tasks of the field: lm_eval's, on the systems that `lit-instruct eval` compares."""
