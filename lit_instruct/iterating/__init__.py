"""Rounds of sampling, ranking, reward model and PPO, one after the other: `lit-instruct iterate`."""
