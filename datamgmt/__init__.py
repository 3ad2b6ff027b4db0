"""Data in motion: subscriptions, allocation, routing, links, transfers, tools, deletion."""
