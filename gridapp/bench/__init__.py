"""Benchmarks: how fast the public functions are beside the same work by the raw driver."""
