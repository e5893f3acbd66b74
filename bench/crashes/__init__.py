"""Ragline killed by SIGKILL while documents come, change, lose groups and go; then the books are checked.

    python -m bench.crashes --kills 200 --documents 10000
    python -m bench.crashes --kills 200 --documents 10000 --servers

ledger   what was acknowledged: what each document must be        service  what is under test: `ragline up`, embedded engines
load     the clients that change documents                        fleet    the same on servers: each role a process
books    what the service says, against the ledger                program  a process that is killed
harness  kill, look at what was left, start again, check          wire     connections that are cut
"""
