"""The demo: a production, end to end, on an embedded grid, from request to verified files and a picture."""
