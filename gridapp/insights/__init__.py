"""Insights: the one layer of reads that feeds the commands, the REST API, the page and the metrics.

Every function takes a snapshot's connection first and returns what JSON can hold: dicts and lists with
snake_case keys, times as ISO text in UTC, states as their names, bounded by a limit.
"""
