"""Control: what people order of requests, tasks and many jobs at once."""
