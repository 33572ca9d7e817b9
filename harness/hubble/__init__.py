"""Hubble's flows: the wire format, a client, a server, and which flow belongs to which probe."""

import os

# gRPC's core writes connection news to standard error, into the middle of a report. It reads this when it is first imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
