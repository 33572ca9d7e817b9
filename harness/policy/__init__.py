"""Cilium's policy semantics, pure: parse, validate, select, evaluate, compile, explain, lint."""
