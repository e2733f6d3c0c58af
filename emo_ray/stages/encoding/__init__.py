"""Encoders over shard parts, and feature tables from and for other tools. Reading order: actor, external_tables."""
