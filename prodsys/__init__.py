"""Work: requests, splitting, jobs, task queue, shares, brokerage, retries, merging, executors, wrapper."""
