"""Clips on disk to batches in memory.

Reading order: labels, lfs, suffixes, folders, file_digests, roots, manifest, folding, splits, corpora, tables,
synthetic, status, media, decoder, speech, shards, recordings, prepared, transcripts, batch, pseudo.
"""
