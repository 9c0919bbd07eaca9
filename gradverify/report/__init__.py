"""What users read: a Report as text for a terminal, and as JSON. Nothing here computes a verdict."""
