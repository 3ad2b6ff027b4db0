"""Links: what they have shown and cost, what waits on them, what operators say of them."""
