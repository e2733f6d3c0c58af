"""Asking endpoints about transcripts, sounds and clips, and keeping their answers.

Reading order: answer_log, http_bounds, client, sounds, clip_questions, asking, readings,
chat_labels.
"""
