"""Subscriptions: standing wishes for data, what they come to, and when all is there."""
