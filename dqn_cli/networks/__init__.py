"""From an observation to one value per action."""
