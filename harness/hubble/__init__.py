"""Hubble's flows: the wire format, a client, a server, and which flow belongs to which probe."""
