"""For all tests: pytest's own means to test plugins."""

pytest_plugins = ["pytester"]
