"""What an event loop raises of a connection that the other side has closed, where a client expects an OSError.

uvloop: RuntimeError (its issue 506); asyncio of Python 3.12 to 3.14: TypeError or AttributeError (redis-py's issue 4287). Clients
that write without asking first pass them on as they are.
"""

from __future__ import annotations

RAISED = (RuntimeError, TypeError, AttributeError)

UVLOOP = "unable to perform operation on"

WRITES = ("write", "writelines")
"""Methods of asyncio's transports in which the others are raised."""


def closed(error: BaseException) -> bool:
    """Whether `error` is one of them, and no defect of ours of the same type."""
    if isinstance(error, RuntimeError):
        return str(error).startswith(UVLOOP) and "closed" in str(error)
    trace = error.__traceback__
    if not isinstance(error, RAISED) or trace is None:
        return False
    while trace.tb_next:
        trace = trace.tb_next
    frame = trace.tb_frame
    return str(frame.f_globals.get("__name__")).startswith("asyncio.") and frame.f_code.co_name in WRITES
