"""The manifest: a row per clip. Tables of any origin to checked clips.

Reading order: encodings, table_files, columns, spans, votes, clips, checks.
"""

from emo_ray.data.manifest.clips import SCHEMA, Clip, first_of, media_by_place, media_fields, read, read_table, write

__all__ = ["SCHEMA", "Clip", "first_of", "media_by_place", "media_fields", "read", "read_table", "write"]
