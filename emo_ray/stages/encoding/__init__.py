"""Encoders over shard parts in actors, and feature tables from and for other tools.

Reading order: text_sources, actor, external_tables, feature_tables, labelled, clip_speakers, neighbours.
"""
