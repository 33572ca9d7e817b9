"""Listeners to engine events: what people and machines read."""
