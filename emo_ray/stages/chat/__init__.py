"""Asking a chat endpoint about transcripts, and keeping its answers.

Reading order: answer_log, http_bounds, client, readings.
"""
