"""One check of one layer: `search` draws Cases, verifies them, shrinks and diagnoses what fails.

`settings` is what a user may set for it, and `progress` the line that says how it stands.
"""
