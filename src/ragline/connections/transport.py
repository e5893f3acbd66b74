"""What an event loop raises of a connection that the other side has closed, where a client expects an OSError.

uvloop: RuntimeError (its issue 506); asyncio of Python 3.12 to 3.14: TypeError or AttributeError (redis-py's issue 4287). Clients
that write without asking first pass them on as they are.
"""

from __future__ import annotations

RAISED = (RuntimeError, TypeError, AttributeError)

LOOPS = ("asyncio", "uvloop")


def closed(error: BaseException) -> bool:
    """Whether `error` is one of RAISED, and the event loop itself raised it: those of our own code are defects."""
    trace = error.__traceback__
    if not isinstance(error, RAISED) or trace is None:
        return False
    while trace.tb_next:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] in LOOPS
