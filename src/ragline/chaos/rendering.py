"""Experiments in the words of tools that break a cluster: Chaos Mesh's manifests, Gremlin's attacks. Pure: texts out.

Ragline plays a fault inside one process; these play the same one between pods, as near as the tool comes:

| fault | Chaos Mesh | Gremlin |
|---|---|---|
| hang | NetworkChaos, partition | blackhole |
| refuse | PodChaos, pod-failure | shutdown, once |
| slow | NetworkChaos, delay | latency |
| skew | TimeChaos | time_travel |
| full disk | IOChaos, ENOSPC | disk |
| kill | PodChaos pod-kill, by a Schedule | shutdown, once |

What has no meaning there is left out: a load, what only an answer says (429, a neighbour missed, what was true before), what is
played outside of a cluster, and a process that stands still, for which neither tool has a word.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ragline.chaos.experiment import Experiment, Fault

GREMLIN_URL = "https://api.gremlin.com/v1/attacks/new"
"""With `?teamId=…`."""

GREMLIN_NAMES = {
    "blackhole": "Blackhole", "latency": "Latency", "shutdown": "Shutdown", "time_travel": "Time Travel", "disk": "Disk",
}  # fmt: skip
"""Its commands, and what it calls them."""

SERVE, WORK = "serve", "work"
"""The parts that are ours: processes that answer, processes that take documents in."""

PARTS = (
    SERVE, WORK, "vectors", "keywords", "embedder", "reranker", "cache", "registry", "jobs", "log", "llm",
)  # fmt: skip
"""What a selector may be given for."""

DATA = "/data"
"""The data folder in our image."""

LABEL = "app.kubernetes.io/component"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the pods are. `labels`: part → the labels of its pods; a part that is not named has ``LABEL=part``."""

    namespace: str = "ragline"
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def of(self, part: str) -> dict[str, str]:
        return dict(self.labels.get(part, {LABEL: part}))


def chaos_mesh(experiment: Experiment, cluster: Cluster) -> dict[str, str]:
    """File name → manifest, a document a fault. Empty: it has no meaning on a cluster."""
    found = [_manifest(experiment, fault, cluster) for fault in experiment.faults if _meant(fault)]
    if not found:
        return {}
    head = f"# {experiment.title}\n"
    return {f"{experiment.name}.yaml": head + "".join(f"---\n{_yaml(one)}" for one in found)}


def gremlin(experiment: Experiment, cluster: Cluster) -> dict[str, str]:
    """File name → body of a POST to GREMLIN_URL, a file a fault. Empty: it has no meaning on a cluster."""
    meant = [fault for fault in experiment.faults if _meant(fault)]
    return {
        f"{experiment.name}{f'-{fault.target}' if len(meant) > 1 else ''}.json": json.dumps(
            _attack(fault, cluster), indent=2
        )
        + "\n"
        for fault in meant
    }


def _meant(fault: Fault) -> bool:
    return fault.target not in ("load", "process", "edge", "webhooks") and fault.kind not in (
        "limit",
        "reject",
        "miss",
        "stale",
    )


def _part(fault: Fault) -> str:
    """Whose pods fail."""
    ours = {"clock": SERVE, "disk": SERVE, "workers": WORK}
    return ours.get(fault.target) or fault.target.partition(".")[0]


def _asking(fault: Fault) -> str:
    """Whose calls of it fail."""
    return WORK if fault.target in ("embedder.document", "log") else SERVE


def _manifest(experiment: Experiment, fault: Fault, cluster: Cluster) -> dict[str, Any]:
    name = f"{experiment.name}-{fault.target}".replace("_", "-").replace(".", "-")
    kind, spec = _chaos(fault, cluster)
    if fault.kind == "kill":  # again and again, until it is deleted
        del spec["duration"]
        inner = kind[0].lower() + kind[1:]
        spec = {
            "schedule": f"@every {fault.by:g}s", "type": kind, "concurrencyPolicy": "Forbid", "historyLimit": 1, inner: spec,
        }  # fmt: skip
        kind = "Schedule"
    meta = {"name": name, "namespace": cluster.namespace}
    return {"apiVersion": "chaos-mesh.org/v1alpha1", "kind": kind, "metadata": meta, "spec": spec}


def _chaos(fault: Fault, cluster: Cluster) -> tuple[str, dict[str, Any]]:
    def pods(part: str, mode: str = "all") -> dict[str, Any]:
        return {"mode": mode, "selector": {"namespaces": [cluster.namespace], "labelSelectors": cluster.of(part)}}

    part, duration = _part(fault), {"duration": f"{fault.for_s:g}s"}
    between = {**pods(_asking(fault)), "direction": "to", "target": pods(part)}
    match fault.kind:
        case "hang":
            return "NetworkChaos", {"action": "partition", **between, "direction": "both", **duration}
        case "slow":
            return "NetworkChaos", {"action": "delay", "delay": {"latency": f"{fault.by:g}s"}, **between, **duration}
        case "refuse":
            return "PodChaos", {"action": "pod-failure", **pods(part), **duration}
        case "kill":
            return "PodChaos", {"action": "pod-kill", **pods(part, "one"), "gracePeriod": 0, **duration}
        case "skew":
            return "TimeChaos", {**pods(part), "timeOffset": f"{fault.by:g}s", **duration}
        case _:
            writes = ["write", "create", "mkdir", "fsync"]
            full = {"action": "fault", "errno": errno.ENOSPC, "percent": 100, "methods": writes, "volumePath": DATA}
            return "IOChaos", {**pods(part), **full, **duration}


def _attack(fault: Fault, cluster: Cluster) -> dict[str, Any]:
    labels = {"io.kubernetes.pod.namespace": cluster.namespace, **cluster.of(_part(fault))}
    containers = {"multiSelectLabels": {name: [value] for name, value in labels.items()}}
    name, *arguments = _arguments(fault)
    return {
        "command": {"type": name, "commandType": GREMLIN_NAMES[name], "args": arguments},
        "target": {"type": "Random", "percent": 100, "containers": containers},
    }


def _arguments(fault: Fault) -> list[str]:
    length, spared = ["-l", f"{fault.for_s:.0f}"], ["-h", "^api.gremlin.com", "-p", "^53"]
    match fault.kind:
        case "hang":
            return ["blackhole", *length, *spared]
        case "slow":
            return ["latency", *length, "-m", f"{fault.by * 1000:.0f}", *spared]
        case "refuse" | "kill":
            return ["shutdown", "-d", "0", "-r"]
        case "skew":
            return ["time_travel", *length, "-o", f"{fault.by:.0f}", "-n"]
        case _:
            return ["disk", *length, "-d", DATA, "-p", "100"]


def _yaml(value: Mapping[str, Any], indent: int = 0) -> str:
    """Of mappings, lists of scalars and scalars; each scalar as JSON writes it, which YAML reads alike."""
    lines = ""
    for name, one in value.items():
        lines += " " * indent + f"{name}:"
        if isinstance(one, Mapping):
            lines += "\n" + _yaml(one, indent + 2)
        elif isinstance(one, Sequence) and not isinstance(one, str):
            lines += "\n" + "".join(f"{' ' * (indent + 2)}- {json.dumps(item)}\n" for item in one)
        else:
            lines += f" {json.dumps(one)}\n"
    return lines
