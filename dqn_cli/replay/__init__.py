"""Transitions: stored once, sampled as stacks."""
