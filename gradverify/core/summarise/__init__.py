"""What many outcomes add up to: tallies, coverage, the lines that ran, and the Report."""
