"""Searching for settings (`dqn-tune`): what may be tried, which trials there were, what came of them. No torch."""
