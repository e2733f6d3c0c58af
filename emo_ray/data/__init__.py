"""Clips on disk to batches in memory.

Reading order: labels, lfs, suffixes, folders, encodings, table_files, columns, manifest, clip_checks, folding,
splits, corpora, feature_columns, feature_files, tables, synthetic_canvas, synthetic_face, synthetic_voice,
synthetic_text, synthetic, status, media, decoder, shards, prepared, batch, pseudo.
"""
