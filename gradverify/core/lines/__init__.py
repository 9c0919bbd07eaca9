"""Which lines and branches of the author's own code ran in a case that was verified, and which never did.

A pass says nothing about a line that never ran. `recorder` watches a check, case by case; `watch` is how Python tells
what runs; `owner` says whose code it is, and `places` what of it can run. The result is `summarise.lines_ran`.
"""
