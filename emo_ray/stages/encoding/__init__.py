"""Encoders over shard parts, and feature tables from and for other tools.

Reading order: encoders, actor, external_tables, feature_tables.
"""
