"""Tests of the plugin, against real servers."""
