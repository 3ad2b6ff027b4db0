"""Shares: who gets the next cores."""
