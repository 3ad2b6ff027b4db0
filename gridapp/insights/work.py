"""What the work half looks like: requests, tasks, jobs and shares."""

from gridapp.insights.jobs import job, jobs, shares
from gridapp.insights.tasks import request, requests, task, tasks

__all__ = ["job", "jobs", "request", "requests", "shares", "task", "tasks"]
