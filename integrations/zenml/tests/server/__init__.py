"""Tests of the plugin inside a real ZenML server."""
