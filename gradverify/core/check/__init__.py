"""One check of one layer: draw Cases, verify them, shrink and diagnose what fails."""
