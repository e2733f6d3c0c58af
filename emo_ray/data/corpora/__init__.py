"""Corpora on disk to clips: an importer for each layout, in a file of its own, and the choice between them.

Reading order: imported, csv_files, subtitles, ravdess, mer2024, meld, iemocap, media_folders, reader.
"""
