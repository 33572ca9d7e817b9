"""Runs a case phase by phase and judges. Emits events; knows nothing of pytest."""
