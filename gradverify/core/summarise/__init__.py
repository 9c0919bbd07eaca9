"""What many outcomes add up to: a `tally` for each property, and the `report` of a layer.

`coverage` counts the sizes, options and values that were drawn, `lines_ran` the author's lines that ran.
"""
