"""Whether a fault met anything: an experiment whose fault nobody noticed is green for nothing."""

from __future__ import annotations

from collections.abc import Mapping

from ragline.chaos.experiment import Fault
from ragline.chaos.verdict import QUEUED, Verdict

RECALL = 0.95
"""Below which neighbours were missed, as the alert has it."""


def unmet(verdict: Verdict, *, grown: Mapping[str, float], killed: int, refused: Mapping[str, int]) -> list[str]:
    """In words; empty: each fault met something.

    grown:    metric → by how much it grew during the fault.
    killed:   processes.
    refused:  target of a played receiver → what it has refused.
    """
    return [words for fault in verdict.experiment.faults if (words := _unmet(fault, verdict, grown, killed, refused))]


def _unmet(fault: Fault, verdict: Verdict, grown: Mapping[str, float], killed: int, refused: Mapping[str, int]) -> str:
    experiment, asked = verdict.experiment, verdict.asked
    match fault.target, fault.kind:
        case "workers", _:
            return "" if killed else "there was no process to kill"
        case "process", _:
            during = verdict.samples.between(verdict.fault_s, verdict.healed_s)
            slowest_s = max((one.took_ms for one in during), default=0.0) / 1000
            return "" if slowest_s > fault.for_s / 2 else "no search waited while the process stood still"
        case ("edge" | "webhooks") as target, _ if not refused.get(target):
            return f"nothing was sent to the {target} that refused it"
        case "webhooks", _:
            return "" if asked and asked.replayed else "no delivery was given up"
        case "guard", _:
            return (
                "" if grown.get("cache_wrong_total") else "the auditor found nothing that should not have been served"
            )
        case _, "miss":
            count, found = grown.get("ann_recall_count", 0.0), grown.get("ann_recall_sum", 0.0)
            return "" if count and found / count < RECALL else f"no recall below {RECALL} was measured"
        case "llm", "slow" if asked:
            return (
                ""
                if asked.waiting >= QUEUED
                else f"{asked.waiting} jobs waited when the fault ended: it held nothing up"
            )
        case _, "slow" if not (experiment.expect.degraded or experiment.expect.writes):
            more_s = (verdict.during.mean_ms - verdict.before.mean_ms) / 1000
            return (
                "" if more_s > fault.by / 2 else f"searches took {more_s:.2f} s longer, of {fault.by:g} s: it met few"
            )
    return ""
