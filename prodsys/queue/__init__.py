"""The queue: which jobs run where and when, claimed by agents that serve endpoints."""
