"""Benchmarks: vircpt side by side with the tools that people use otherwise. Run script/bench."""
