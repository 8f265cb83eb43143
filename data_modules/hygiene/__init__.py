"""Which prompts are used for training, and which validate (the paper's Appendix A)."""
