"""Asking endpoints about transcripts and sounds, and keeping their answers.

Reading order: answer_log, http_bounds, client, sounds, asking, readings.
"""
