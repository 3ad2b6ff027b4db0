"""Settling: how attempts ended, what that does to their jobs, and what is tried again."""
