"""Clips on disk to batches in memory.

Reading order: labels, manifest, splits, corpora, synthetic, media, shards, batch.
"""
