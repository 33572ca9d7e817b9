"""For all tests: pytest's own means to test plugins, the score of the shipped cases, and laws without a clock."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester", "tests.suites.score"]

# How long an example takes says more about the machine than about the law.
settings.register_profile("harness", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("harness")
