"""A kernel that is to be scored: held against its reference, in a process of its own."""
