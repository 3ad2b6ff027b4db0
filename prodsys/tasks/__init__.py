"""Tasks: the steps of requests, and the documents that describe them."""
