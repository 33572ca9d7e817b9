"""Tests of the netns lab with real packets."""
