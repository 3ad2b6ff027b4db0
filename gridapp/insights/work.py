"""What the work half looks like: requests, tasks, jobs and shares."""

from gridapp.insights.jobs import job, jobs
from gridapp.insights.requests import request, requests
from gridapp.insights.shares import shares
from gridapp.insights.tasks import task, tasks

__all__ = ["job", "jobs", "request", "requests", "shares", "task", "tasks"]
