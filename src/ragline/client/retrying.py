"""Whether to ask again, and when. Pure.

what happened                                         asked again
no connection came about                              always: nothing was sent
429                                                   always: it was refused before anything was done
cut, 502, 503, 504 and `retryable`                    where a second time does no harm: `Call.repeatable`
everything else, and a deadline that would be missed  never
"""

from __future__ import annotations

from random import Random

from ragline.client.errors import ClientError, NotReachable, Refused

FIRST_S, MOST_S = 0.2, 5.0
"""Longest waits before the second try and before late ones; each is twice the one before."""


def may_repeat(error: ClientError, *, repeatable: bool) -> bool:
    match error:
        case NotReachable():
            return repeatable or not error.sent
        case Refused(status=429):
            return True
        case Refused():
            return repeatable and error.retryable and error.status in (502, 503, 504)
        case _:
            return False


def pause_s(failed: int, retry_after_s: float | None, dice: Random) -> float:
    """Seconds before the next try; `failed`: tries so far, from 1. At least what the server asks for, and never the same for all
    clients: half of the wait is by chance."""
    most = min(MOST_S, FIRST_S * 2.0 ** min(failed - 1, 10))
    if retry_after_s is None:
        return most / 2 + dice.uniform(0, most / 2)
    return retry_after_s + dice.uniform(0, most / 2)
