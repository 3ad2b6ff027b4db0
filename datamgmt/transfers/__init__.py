"""Transfers: one file over one hop, from its place in a queue to a replica that is whole."""
