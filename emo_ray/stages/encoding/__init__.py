"""Encoders over shard parts, and feature tables from and for other tools.

Reading order: text_sources, encoders, recognition, actor, external_tables, feature_tables, clip_speakers, neighbours.
"""
