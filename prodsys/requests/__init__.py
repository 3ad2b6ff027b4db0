"""Requests: what groups ask for, where it may run, and when it is done."""
