"""Topology: the sites, storage, links and shares of a grid, as files and as rows."""
