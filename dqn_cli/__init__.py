"""A command-line experiment runner for the deep-Q-learning family."""

__version__ = "0.1.0"
