"""The parts that the PPO stage composes."""
