"""Routing: how each wanted replica travels, hop by hop."""
