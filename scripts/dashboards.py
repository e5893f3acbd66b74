"""Write deploy/grafana/dashboards/*.json: `python scripts/dashboards.py`. A test fails while a file is stale.

Panels are rows of the tables below; types and layout are those of Grafana's own SDK. tests/deploy/test_dashboards.py puts every
query to a Prometheus that has scraped a real run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DashboardLinkType, DataSourceRef

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "dashboards"

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
GRID_WIDTH = 24


@dataclass(frozen=True, slots=True)
class Panel:
    """`queries`: legend → PromQL. `unit`: Grafana's word for it. `needs`: without it the panel is empty, and says so."""

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    says: str = ""
    needs: str = ""
    single: bool = False
    """The last value alone, in large figures."""

    @property
    def described(self) -> str:
        return " ".join(filter(None, (self.says, self.needs and f"Empty without {self.needs}.")))


Rows = Mapping[str, Sequence[Panel]]
"""Heading of each row → its panels, which share its width."""


def rate(counter: str, *by: str, where: str = "") -> str:
    return f"sum by ({', '.join(by)}) (rate({counter}{{{where}}}[$__rate_interval]))"


def quantile(q: float, histogram: str, *by: str, where: str = "") -> str:
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', 'le', *by, where=where)})"


def share(part: str, whole: str) -> str:
    """0, not nothing, where the part has never been counted."""
    return f"(({part}) or 0 * ({whole})) / ({whole} > 0)"


def quantiles(histogram: str, where: str = "") -> dict[str, str]:
    return {f"p{round(q * 100)}": quantile(q, histogram, where=where) for q in (0.5, 0.95, 0.99)}


FAILED = 'sum(increase(searches_total{outcome="failed"}[30d]))'
SEARCHED = 'sum(increase(searches_total{outcome=~"answered|degraded|failed"}[30d]))'

LOW_RECALL = 'le="0.95"'
RECALL_NEEDS = "a store that can search exactly, and `query.recall_share`"
PRICE_NEEDS = "`prompt_price` and `completion_price` of a generator"
LOG_NEEDS = "a chunk log (Kafka)"
EDGE_NEEDS = "an edge (`edge.url`)"

OVERVIEW: Rows = {
    "What is promised": [
        Panel("Searches answered, 1 h", {"answered": "1 - ragline:search_errors:ratio1h"}, "percentunit", "99.9 % are promised.",
              single=True),
        Panel("Error budget left, 30 d",
              {"left": f"1 - {share(FAILED, SEARCHED)} / 0.001"},
              "percentunit", "Of the 0.1 % of searches that may fail in 30 days. Below 0: it is overspent.", single=True),
        Panel("Retrievals within 200 ms", {"share": "1 - ragline:retrievals_slow:ratio5m"}, "percentunit", "95 % are promised.",
              single=True),
        Panel("Generations within their limit", {"{{generator}}": "1 - ragline:generations_slow:ratio5m"}, "percentunit",
              "98 % are promised; 1 s, or what generators.yml says.", single=True),
        Panel("Stale documents", {"stale": "max(stale_passage_ratio)"}, "percentunit", single=True),
        Panel("Alerts that fire", {"alerts": 'count(ALERTS{alertstate="firing"}) or vector(0)'}, single=True),
        Panel("Processes", {"up": 'sum(up{job=~"ragline.*"})', "away": 'sum(1 - up{job=~"ragline.*"})'}, single=True),
    ],
    "How it goes": [
        Panel("Searches by outcome", {"{{outcome}}": rate("searches_total", "outcome")}, "reqps"),
        Panel("Burn rate of the error budget",
              {window: f"ragline:search_errors:ratio{window} / 0.001" for window in ("5m", "1h", "6h", "3d")},
              says="1 spends the budget in exactly its 30 days; 14.4 × for 1 h pages."),
        Panel("Retrieval", quantiles("retrieval_latency_ms", 'stage="total"'), "ms"),
    ],
    "What is left out": [
        Panel("Left out of answers", {"{{step}}": rate("degraded_total", "step")}, "ops"),
        Panel("Engines left out", {"{{engine}}": "max by (engine) (engine_left_out)"}),
        Panel("Hit ratio of the cache", {"hits": "cache_hit_ratio"}, "percentunit"),
        Panel("Oldest change that is not live", {"age": "max(oldest_waiting_document_s)"}, "s"),
    ],
}  # fmt: skip

QUERY: Rows = {
    "Retrieval": [
        Panel("p95 by stage", {"{{stage}}": quantile(0.95, "retrieval_latency_ms", "stage", where='stage!~"keyword|dense"')},
              "ms", "total is the whole of a search that asked the stores; cached that of a hit."),
        Panel("p95 by leg", {"{{stage}}": quantile(0.95, "retrieval_latency_ms", "stage", where='stage=~"keyword|dense"')}, "ms",
              "The slower leg makes the total; one that fails is late until its deadline."),
        Panel("Over 200 ms", {"share": "ragline:retrievals_slow:ratio5m"}, "percentunit", "Alarmed from 5 % on."),
    ],
    "Errors and overload": [
        Panel("Failed legs and searches", {"{{leg}}, {{error}}": rate("retrieval_errors_total", "leg", "error")}, "ops"),
        Panel("Errors of a leg", {"{{leg}}": "ragline:leg_errors:ratio5m"}, "percentunit", "Of its searches; 5 % alarm."),
        Panel("Under way, and places", {"under way": "sum(searches_in_flight)", "places": "sum(search_places)"}),
        Panel("Refused", {"refused": rate("searches_refused_total")}, "reqps"),
    ],
    "Generation": [
        Panel("p95 by generator", {"{{generator}}": quantile(0.95, "generation_latency_ms", "generator")}, "ms"),
        Panel("First token, p95", {"{{generator}}": quantile(0.95, "time_to_first_token_ms", "generator")}, "ms"),
        Panel("Left out", {"{{step}}": rate("degraded_total", "step")}, "ops"),
    ],
    "Around": [
        Panel("Requests by status", {"{{status}}": rate("http_requests_total", "status")}, "reqps"),
        Panel("Requests by route", {"{{route}}": rate("http_requests_total", "route")}, "reqps"),
        Panel("Recall of the vector index",
              {"mean": f"{rate('ann_recall_sum')} / {rate('ann_recall_count')}"}, "percentunit",
              needs=RECALL_NEEDS),
        Panel("Spans of traces", {"{{outcome}}": rate("trace_spans_total", "outcome")}, "ops",
              needs="a collector (`traces.url`)"),
    ],
}  # fmt: skip

INGEST: Rows = {
    "Documents": [
        Panel("Ended by outcome", {"{{outcome}}": rate("documents_total", "outcome")}, "ops"),
        Panel("Waiting", {"documents": "max(documents_waiting)"}),
        Panel("Oldest that waits", {"age": "max(oldest_waiting_document_s)"}, "s"),
        Panel("Stale by cause", {"{{why}}": "max by (why) (stale_documents)", "served": "max(served_documents)"}),
    ],
    "Stages": [
        Panel("p95 by stage", {"{{stage}}": quantile(0.95, "ingest_latency_ms", "stage")}, "ms", "Of one document."),
        Panel("Chunks indexed", {"chunks": rate("chunks_indexed_total")}, "ops"),
        Panel("Attempts stopped", {"{{stage}}": "sum by (stage) (increase(attempts_stalled_total[1h]))"},
              needs="an attempt that has made no step within its deadline"),
        Panel("Claimed again, leases ended",
              {"claimed again": "sum(increase(documents_redriven_total[1h]))",
               "leases ended": "sum(increase(leases_ended_total[1h]))"}),
    ],
    "Chunk log": [
        Panel("Lag", {"{{topic}} for {{group}}": "max by (topic, group) (consumer_lag)"}, needs=LOG_NEEDS),
        Panel("Messages", {"{{topic}}, {{outcome}}": rate("log_messages_total", "topic", "outcome")}, "ops",
              needs=LOG_NEEDS),
        Panel("Dead letters", {"{{topic}}": "sum by (topic) (increase(dead_letters_total[1h]))"}, needs=LOG_NEEDS),
    ],
    "Care": [
        Panel("Re-driven", {"{{done}}": "sum by (done) (increase(stale_redrives_total[1h]))"}),
        Panel("Found by the last audit", {"{{kind}}": "sum by (kind) (audit_findings)"}),
        Panel("Mended", {"{{kind}}": "sum by (kind) (increase(audit_mended_total[1d]))"},
              needs="an audit that has mended something"),
        Panel("Collected and forgotten",
              {"blobs and folders": "sum(increase(orphans_collected_total[1d]))",
               "tombstones": "sum(increase(tombstones_purged_total[1d]))"}),
    ],
}  # fmt: skip

JOBS: Rows = {
    "Queues": [
        Panel("Length", {"{{queue}}": "max by (queue) (queue_length)"}, says="Told by the one process that has the duty."),
        Panel("Claims by how they ended", {"{{queue}}, {{how}}": rate("job_attempts_total", "queue", "how")}, "ops"),
        Panel("Clients that follow", {"clients": "sum(job_watchers)"}),
    ],
    "Jobs": [
        Panel("By what became of them", {"{{outcome}}": rate("jobs_total", "outcome")}, "ops"),
        Panel("p95 by stage", {"{{stage}}": quantile(0.95, "job_latency_ms", "stage")}, "ms", "total: from its acceptance."),
        Panel("Total", quantiles("job_latency_ms", 'stage="total"'), "ms"),
    ],
    "Webhooks": [
        Panel("Deliveries", {"{{outcome}}": rate("webhook_deliveries_total", "outcome")}, "ops", needs="jobs with a webhook"),
    ],
}  # fmt: skip

CACHES: Rows = {
    "Hot tier": [
        Panel("Hit ratio", {"hits": "cache_hit_ratio"}, "percentunit", "Alarmed under 70 %."),
        Panel("Looks", {"{{kind}}, {{outcome}}": rate("cache_requests_total", "kind", "outcome")}, "reqps"),
        Panel("p95 of a hit, and of a search",
              {"{{stage}}": quantile(0.95, "retrieval_latency_ms", "stage", where='stage=~"cached|total"')}, "ms"),
    ],
    "Does it hold?": [
        Panel("Hits searched again", {"{{outcome}}": "sum by (outcome) (increase(cache_audits_total[1h]))"}),
        Panel("Wrong passages", {"wrong": "sum(increase(cache_wrong_total[1h]))"}, says="One is alarmed."),
        Panel("Errors", {"{{error}}": rate("cache_errors_total", "error")}, "ops", needs="a cache that has failed"),
        Panel("Unusable entries", {"{{fault}}": "sum by (fault) (increase(cache_unusable_total[1h]))"},
              needs="an entry of another version, or damaged"),
    ],
    "Edge": [
        Panel("Answers", {"{{outcome}}": rate("edge_answers_total", "outcome")}, "ops", needs=EDGE_NEEDS),
        Panel("Purges", {"{{outcome}}": rate("edge_purges_total", "outcome")}, "ops", needs=EDGE_NEEDS),
        Panel("Oldest purge that waits", {"age": "max(edge_purge_lag)"}, "s", "0 without an edge."),
        Panel("Purges that wait", {"purges": "max(edge_purges_waiting)"}, says="0 without an edge."),
    ],
}  # fmt: skip

MODELS: Rows = {
    "Generators beside each other": [
        Panel("Generations", {"{{generator}}": rate("generation_latency_ms_count", "generator")}, "ops",
              "Failed ones count: set against what was left out."),
        Panel("p95", {"{{generator}}": quantile(0.95, "generation_latency_ms", "generator")}, "ms"),
        Panel("First token, p95", {"{{generator}}": quantile(0.95, "time_to_first_token_ms", "generator")}, "ms"),
        Panel("Over their limit", {"{{generator}}": "ragline:generations_slow:ratio5m"}, "percentunit"),
    ],
    "Do they hold?": [
        Panel("Left out", {"{{step}}": rate("degraded_total", "step", where='step=~"generator|ungrounded"')}, "ops",
              "generator: it failed. ungrounded: its answer did not hold to its passages."),
        Panel("Citations removed", {"citations": "sum(increase(citations_removed_total[1h]))"}, says="They pointed nowhere."),
        Panel("Left out now", {"{{engine}}": 'max by (engine) (engine_left_out{engine=~"generator.*|reranker"})'}),
    ],
    "Retrieval under a new model": [
        Panel("p95 of embedding and reranking",
              {"{{stage}}": quantile(0.95, "retrieval_latency_ms", "stage", where='stage=~"embed|rerank"')}, "ms"),
        Panel("Share of low recall",
              {"0.95 or less": f"{rate('ann_recall_bucket', where=LOW_RECALL)} / {rate('ann_recall_count')}"}, "percentunit",
              "Of the samples.", needs=RECALL_NEEDS),
    ],
}  # fmt: skip

COST: Rows = {
    "In the currency of the prices": [
        Panel("Cost in this range", {"cost": "sum(increase(generation_cost_total[$__range]))"}, "none", single=True,
              needs=PRICE_NEEDS),
        Panel("A day of this costs", {"cost": "86400 * sum(rate(generation_cost_total[$__range]))"}, "none", single=True,
              needs=PRICE_NEEDS),
        Panel("Estimated share", {"share": share('sum(increase(generation_tokens_total{counted="estimated"}[$__range]))',
                                                 "sum(increase(generation_tokens_total[$__range]))")},
              "percentunit", "Of the tokens: those that no generator has reported.", single=True),
    ],
    "Who": [
        Panel("Cost by namespace, an hour", {"{{namespace}}": "3600 * " + rate("generation_cost_total", "namespace")}, "none",
              "(other): all that have no label of their own, see docs/metrics.md.",
              needs=PRICE_NEEDS),
        Panel("Cost by generator, an hour", {"{{generator}}": "3600 * " + rate("generation_cost_total", "generator")}, "none",
              needs=PRICE_NEEDS),
    ],
    "Tokens": [
        Panel("By kind", {"{{generator}}, {{kind}}": rate("generation_tokens_total", "generator", "kind")}, "short", "A second."),
        Panel("By namespace", {"{{namespace}}": rate("generation_tokens_total", "namespace")}, "short", "A second."),
        Panel("Reported and estimated", {"{{counted}}": rate("generation_tokens_total", "counted")}, "short", "A second."),
        Panel("A generation", {"{{generator}}, {{kind}}":
              f"{rate('generation_tokens_total', 'generator', 'kind')} / on (generator) group_left "
              f"{rate('generation_latency_ms_count', 'generator')}"}, "short", "Tokens, mean."),
    ],
}  # fmt: skip

DASHBOARDS: Mapping[str, tuple[str, Rows]] = {
    "overview": ("Ragline: overview", OVERVIEW),
    "query": ("Ragline: query path", QUERY),
    "ingest": ("Ragline: ingest", INGEST),
    "jobs": ("Ragline: jobs", JOBS),
    "caches": ("Ragline: caches", CACHES),
    "models": ("Ragline: models", MODELS),
    "cost": ("Ragline: cost", COST),
}


def panels(name: str) -> list[Panel]:
    return list(chain.from_iterable(DASHBOARDS[name][1].values()))


def made(name: str) -> str:
    """The JSON of a dashboard, as it is checked in."""
    title, rows = DASHBOARDS[name]
    board = (
        dashboard.Dashboard(title)
        .uid(f"ragline-{name}")
        .tags(["ragline"])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-3h", "now")
        .refresh("30s")
        .timezone("browser")
        .readonly()
        .link(
            dashboard.DashboardLink("Ragline").type(DashboardLinkType.DASHBOARDS).tags(["ragline"])
            .as_dropdown(True).include_vars(True).keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(dashboard.AdHocVariable("only").label("Only").datasource(DATASOURCE))
    )  # fmt: skip
    number = 0
    for heading, row in rows.items():
        number += 1
        board.with_row(dashboard.Row(heading).id(number))
        widths = [GRID_WIDTH // len(row) + (n < GRID_WIDTH % len(row)) for n in range(len(row))]
        for panel, width in zip(row, widths, strict=True):
            number += 1
            board.with_panel(_built(panel).id(number).span(width).height(5 if panel.single else 8))
    return json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _built(panel: Panel) -> stat.Panel | timeseries.Panel:
    built: stat.Panel | timeseries.Panel
    if panel.single:
        built = stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    else:
        legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        built = timeseries.Panel().legend(legend.show_legend(True))
    built = built.title(panel.title).unit(panel.unit).description(panel.described).datasource(DATASOURCE)
    for ref, (legend_format, expr) in zip("ABCDEFGH", panel.queries.items(), strict=False):
        query = prometheus.Dataquery().expr(expr).legend_format(legend_format).ref_id(ref).datasource(DATASOURCE)
        built = built.with_target(query.instant() if panel.single else query.range())
    return built


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(made(name), "utf-8")
