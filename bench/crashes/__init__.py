"""`ragline up` killed by SIGKILL while documents come, change, lose groups and go; then the books are checked.

    python -m bench.crashes --kills 200 --documents 10000

ledger   what was acknowledged: what each document must be        service  the process under test, and what a kill leaves
load     the clients that change documents                        books    what the service says, against the ledger
harness  kill, look at what was left, start again, check
"""
