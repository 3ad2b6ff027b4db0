"""Units: what a task is cut into, and the jobs made of them."""
