"""Experiments rendered for a cluster: Chaos Mesh's manifests against the schemas of its own module; neither tool is run."""

from __future__ import annotations

import io
import json
import os
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from ragline.chaos.experiment import Experiment, Fault, shipped
from ragline.chaos.rendering import GREMLIN_NAMES, PARTS, Cluster, chaos_mesh, gremlin
from tests.engines import maven
from tests.engines.server import missing

MODULE, VERSION = "github.com/chaos-mesh/chaos-mesh", "v0.9.1-0.20260902003049-47411975a8cb"
KINDS = ("networkchaos", "podchaos", "timechaos", "iochaos", "schedules")
NOT_ON_A_CLUSTER = {
    "overload", "llm_limited", "edge_down", "webhook_receiver_down", "process_paused", "neighbours_missed", "registry_lags",
    "embedding_rejects_documents", "embedding_rejects_messages",
}  # fmt: skip
CLUSTER = Cluster("staging", {"vectors": {"app": "milvus", "tier": "data"}})


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    """Kind → its schema, as the API server has it, but that fields which it would drop are refused.

    The module comes once from the Go module proxy (GOPROXY) into the user's cache.
    """
    folder = maven.cache() / f"chaos-mesh-{VERSION}"
    if not folder.exists():
        _bring(folder)
    found = {}
    for name in KINDS:
        said = yaml.safe_load((folder / f"chaos-mesh.org_{name}.yaml").read_text())["spec"]
        (version,) = [one for one in said["versions"] if one["name"] == "v1alpha1"]
        found[said["names"]["kind"]] = _closed(version["schema"]["openAPIV3Schema"])
    return found


def _bring(folder: Path) -> None:
    proxy = next(iter((os.environ.get("GOPROXY") or "https://proxy.golang.org").replace("|", ",").split(",")))
    try:
        with urllib.request.urlopen(f"{proxy.rstrip('/')}/{MODULE}/@v/{VERSION}.zip", timeout=120) as answer:
            module = zipfile.ZipFile(io.BytesIO(answer.read()))
    except (urllib.error.URLError, TimeoutError, ValueError, zipfile.BadZipFile) as error:
        missing(f"Chaos Mesh's module ({error})", "set GOPROXY to a Go module proxy that can be reached")
    half = folder.with_name(f"{folder.name}-{os.getpid()}")
    half.mkdir(parents=True, exist_ok=True)
    for name in KINDS:
        file = f"chaos-mesh.org_{name}.yaml"
        (half / file).write_bytes(module.read(f"{MODULE}@{VERSION}/config/crd/bases/{file}"))
    half.replace(folder)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    open_ = (
        "properties" in schema
        and schema.get("type") == "object"
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    )
    more = {"additionalProperties": False} if open_ else {}
    return {**more, **{name: _closed(one) for name, one in schema.items()}}


@cache
def _manifests(name: str) -> tuple[Mapping[str, Any], ...]:
    (one,) = [one for one in shipped() if one.name == name]
    return tuple(one for text in chaos_mesh(one, CLUSTER).values() for one in yaml.safe_load_all(text) if one)


@pytest.mark.parametrize("experiment", shipped(), ids=lambda one: one.name)
def test_what_has_a_meaning_on_a_cluster_is_a_manifest_that_chaos_mesh_takes(
    experiment: Experiment, schemas: dict[str, Any]
) -> None:
    found = _manifests(experiment.name)
    assert (len(found) == 0) == (experiment.name in NOT_ON_A_CLUSTER)
    for one in found:
        schema = schemas[one["kind"]]
        head = {**schema["properties"], "metadata": {"type": "object"}}
        errors = [
            f"{'/'.join(map(str, error.path))}: {error.message}"
            for error in Draft202012Validator({**schema, "properties": head}).iter_errors(one)
        ]
        assert errors == []
        assert one["apiVersion"] == "chaos-mesh.org/v1alpha1"
        assert one["metadata"]["namespace"] == "staging"


@pytest.mark.parametrize(
    ("name", "kind", "spec"),
    [
        ("vector_store_black_hole", "NetworkChaos", {"action": "partition", "direction": "both", "duration": "30s"}),
        ("vector_store_slow", "NetworkChaos", {"action": "delay", "delay": {"latency": "2s"}, "duration": "20s"}),
        ("keyword_store_down", "PodChaos", {"action": "pod-failure", "mode": "all"}),
        ("clock_skew", "TimeChaos", {"timeOffset": "3600s"}),
        ("disk_full", "IOChaos", {"errno": 28, "volumePath": "/data"}),
        ("workers_killed", "Schedule", {"schedule": "@every 1s", "type": "PodChaos"}),
    ],
)
def test_each_fault_is_the_chaos_that_does_the_same(name: str, kind: str, spec: dict[str, Any]) -> None:
    (one,) = _manifests(name)
    assert one["kind"] == kind
    assert {key: one["spec"][key] for key in spec} == spec


def test_pods_are_found_by_the_labels_that_were_given_and_else_by_the_part() -> None:
    (hole,) = _manifests("vector_store_black_hole")
    assert hole["spec"]["target"]["selector"]["labelSelectors"] == {"app": "milvus", "tier": "data"}
    assert hole["spec"]["selector"]["labelSelectors"] == {"app.kubernetes.io/component": "serve"}
    (slow,) = _manifests("embedding_slow_for_documents")
    assert slow["spec"]["selector"]["labelSelectors"] == {"app.kubernetes.io/component": "work"}
    named = {fault.target.partition(".")[0] for one in shipped() for fault in one.faults}
    assert named - {"clock", "disk", "workers", "load", "process", "guard", "edge", "webhooks"} <= set(PARTS)


@pytest.mark.parametrize("experiment", shipped(), ids=lambda one: one.name)
def test_an_attack_for_gremlin_is_a_command_and_whom_it_hits(experiment: Experiment) -> None:
    written = gremlin(experiment, CLUSTER)
    assert len(written) == (0 if experiment.name in NOT_ON_A_CLUSTER else len(experiment.faults))
    for text in written.values():
        attack = json.loads(text)
        assert GREMLIN_NAMES[attack["command"]["type"]] == attack["command"]["commandType"]
        assert attack["target"]["containers"]["multiSelectLabels"]["io.kubernetes.pod.namespace"] == ["staging"]


def test_the_words_of_gremlins_attacks() -> None:
    def args(kind: str, by: float = 0.0) -> list[str]:
        one = Experiment("x", "", "", (Fault("vectors", kind, 20.0, by),), shipped()[0].expect)
        command = json.loads(gremlin(one, CLUSTER)["x.json"])["command"]
        return [command["type"], *command["args"]]

    spared = ["-h", "^api.gremlin.com", "-p", "^53"]
    assert args("hang") == ["blackhole", "-l", "20", *spared]
    assert args("slow", 2.5) == ["latency", "-l", "20", "-m", "2500", *spared]
    assert args("refuse") == ["shutdown", "-d", "0", "-r"]
    assert args("skew", -60) == ["time_travel", "-l", "20", "-o", "-60", "-n"]
    assert args("full") == ["disk", "-l", "20", "-d", "/data", "-p", "100"]
