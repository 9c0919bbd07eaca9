"""What one needs to understand a verdict, in the order of the data.

declare, draw, evaluate, differentiate, judge, ask (`properties`), shrink, diagnose, summarise; `verify` takes one
Case through them, and `check` draws many. Nothing here imports what hangs on it: see docs/architecture.md.
"""
