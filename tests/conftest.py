"""For all tests: pytest's own means to test plugins, and the score of the shipped cases."""

pytest_plugins = ["pytester", "tests.suites.score"]
