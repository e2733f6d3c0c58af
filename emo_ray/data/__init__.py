"""Clips on disk to batches in memory.

Reading order: labels, clip_tables, lfs, suffixes, inputs, folders, file_digests, roots, manifest, folding, splits,
dialogues, corpora, tables, synthetic, status, faces, face_boxes, face_detector, media, decoder, speech, face_columns,
shards, recordings, prepared, transcripts, degradation, content, corpus_checks, frame_choice, lean_import, frames,
batch, targets, pseudo.
"""
