"""Runs that are too long for each change: every point of every scenario, hours of random work."""
