"""Settings every test shares."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No test asserts on time, so neither does Hypothesis: a busy machine is not a failure.
settings.register_profile("ragline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ragline")
