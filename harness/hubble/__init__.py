"""Hubble: serve flows, read them, and tell whose they are. The wire is Cilium's own."""

import os

# gRPC's core writes connection news to standard error, into the middle of a report. It reads this when it is first imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
