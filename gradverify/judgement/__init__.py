"""Is this entry wrong? Measurements decide most; what is in dispute goes before the rules.

`sweep` compares a gradient entry by entry, `plain` gives the verdict of one measurement, `dispute` holds what
disagrees, `table` asks the `rules` about it, one file each.
"""

from gradverify.judgement import rules  # noqa: F401  so that they are registered
