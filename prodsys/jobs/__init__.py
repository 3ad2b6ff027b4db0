"""Jobs: their state table and their rows."""
