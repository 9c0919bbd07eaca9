"""What an author declares, and what can be wrong with it.

`dims` reads "N D" and `domains` "positive"; `declaration` holds all that is declared, `layer` builds it from
keywords, and `validation` complains. `hooks` are extra ways into a layer, `functions` says which names a function
takes, `registry` finds things by name, `regime` is what a property asks of its cases, and `authored` finds the
author's code behind a layer.
"""
