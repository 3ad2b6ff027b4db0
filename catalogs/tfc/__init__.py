"""Trivial file catalogues: from LFN to PFN and back, by rules."""
