"""Previews: what an order would move, cost and leave, before it is given."""
