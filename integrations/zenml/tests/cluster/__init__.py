"""Tests of the plugin with a real cluster."""
