"""From a Gymnasium id to frames."""
