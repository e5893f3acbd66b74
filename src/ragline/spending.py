"""What generations cost, by namespace, in a number of series that does not grow with the namespaces.

`Answers` tells it of every attempt, also of one that failed or that nobody waited for: its tokens are paid for all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from prometheus_client import Counter

from ragline import metrics
from ragline.errors import ConfigurationError
from ragline.settings import GeneratorSettings, MetricsSettings

OTHER = "(other)"
"""The label of all namespaces without a place of their own. None can have this name: brackets are refused in names."""

OUTSPENT = 2.0
"""How many times the tokens of the quietest holder take its place. Twice: two that spend the same do not take turns, and each
takeover doubles the price of the place, so that few happen however long the process lives."""

REMEMBERED = 100_000
"""Namespaces whose tokens are known while they have no place; then those begin anew, so that memory is bounded too."""

Kind: TypeAlias = Literal["prompt", "completion"]
Counted: TypeAlias = Literal["reported", "estimated"]
"""reported: the generator said so.  estimated: it did not; the embedder's tokens of what was sent and received."""


@dataclass(frozen=True, slots=True)
class Price:
    """Units: any currency, per million tokens."""

    prompt: float
    completion: float


class Places:
    """Which namespaces have a label of their own: those of `named`, and of the others the `busiest` busiest."""

    def __init__(self, named: frozenset[str], *, busiest: int) -> None:
        self._named = named
        self._busiest = busiest
        self._spent: dict[str, float] = {}
        self._holders: set[str] = set()

    def of(self, namespace: str, tokens: float) -> tuple[str, str | None]:
        """The label for `tokens` more of `namespace`, and who has lost its place to it."""
        if namespace in self._named:
            return namespace, None
        if namespace not in self._spent and len(self._spent) >= REMEMBERED + self._busiest:
            self._spent = {one: self._spent[one] for one in self._holders}
        spent = self._spent[namespace] = self._spent.get(namespace, 0.0) + tokens
        if namespace in self._holders:
            return namespace, None
        if len(self._holders) < self._busiest:
            self._holders.add(namespace)
            return namespace, None
        quietest = min(self._holders, key=lambda one: self._spent[one], default=None)
        if quietest is None or spent <= OUTSPENT * self._spent[quietest]:
            return OTHER, None
        self._holders.remove(quietest)
        self._holders.add(namespace)
        return namespace, quietest


class Spending:
    """Counts tokens, and what they cost where a generator has a price.

    Only the event loop's thread may call it.
    """

    def __init__(self, settings: MetricsSettings, prices: Mapping[str, Price]) -> None:
        """`prices`: by the generator's name."""
        self._prices = prices
        self._places = Places(frozenset(settings.namespaces), busiest=settings.busiest_namespaces)
        self._series: dict[str, set[tuple[Counter, tuple[str, ...]]]] = {}

    def count(self, namespace: str, generator: str, kind: Kind, tokens: int, counted: Counted) -> None:
        """Nothing happens for no tokens."""
        if tokens <= 0:
            return
        label, gone = self._places.of(namespace, tokens)
        if gone is not None:
            for metric, labels in self._series.pop(gone, ()):
                metric.remove(*labels)
        self._add(metrics.tokens_total, tokens, (generator, kind, label, counted))
        if (price := self._prices.get(generator)) is not None:
            each = price.prompt if kind == "prompt" else price.completion
            self._add(metrics.cost_total, tokens * each / 1e6, (generator, label, counted))

    def _add(self, metric: Counter, value: float, labels: tuple[str, ...]) -> None:
        """`labels`: in the order of the metric, the namespace's last but one."""
        self._series.setdefault(labels[-2], set()).add((metric, labels))
        metric.labels(*labels).inc(value)


def prices(generators: Iterable[tuple[str, GeneratorSettings]]) -> dict[str, Price]:
    """By name, of those that have a price. Raises ConfigurationError: one name with two prices."""
    found: dict[str, Price | None] = {}
    for name, given in generators:
        price = None
        if given.prompt_price is not None and given.completion_price is not None:
            price = Price(given.prompt_price, given.completion_price)
        if found.setdefault(name, price) != price:
            raise ConfigurationError(
                f"generators: {name} stands there twice, with different prices; its cost is counted under one name.",
                next_step="Give both the same prompt_price and completion_price.",
            )
    return {name: price for name, price in found.items() if price is not None}
