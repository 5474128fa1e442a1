"""The loop and what it leaves behind."""
