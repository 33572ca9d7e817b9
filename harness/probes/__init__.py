"""The plan (which probes a phase needs) and the agent that sends them."""
