"""What an author declares, and what can be wrong with it."""
