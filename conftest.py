"""Makes `pytest` work from a checkout whether or not the package is installed: one name, so pytest registers the plugin once."""

pytest_plugins = ["harness.plugin"]
