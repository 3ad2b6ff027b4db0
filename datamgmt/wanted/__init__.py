"""Wanted replicas: where blocks are to be, whose quota bears them, the room kept on their way."""
