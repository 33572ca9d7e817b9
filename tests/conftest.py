"""For all tests: pytest's own means to test plugins, the score of the shipped cases, and laws without a clock."""

import signal

from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester", "tests.suites.score"]

# How long an example takes says more about the machine than about the law.
settings.register_profile("harness", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("harness")

# A shell starts what runs in its background with Ctrl-C ignored, and every child inherits that: tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
