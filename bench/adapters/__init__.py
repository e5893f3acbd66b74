"""What an adapter costs over its vendor's client: the same rows, the same searches, side by side in one run.

    python -m bench.adapters ENGINE [--rows 20000] [--dim 384] [--url URL]

An engine is one file here with `opened(url)`, a context that gives an `Engine`: the adapter, and beside it the vendor's
client as a short program would use it. Without --url a server of the tests is started, where the engine has one.
"""
