"""For all tests: pytest's own means to test plugins, the score of the shipped cases, and laws without a clock."""

import signal

pytest_plugins = ["pytester", "tests.suites.score"]

# pytest reads this file too when it is given a path that does not exist: where only `make run` was run, that is all it shall complain of.
try:
    from hypothesis import HealthCheck, settings
except ModuleNotFoundError:
    pass
else:
    # How long an example takes says more about the machine than about the law.
    settings.register_profile("harness", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("harness")

# A shell starts what runs in its background with Ctrl-C ignored, and every child inherits that: tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
