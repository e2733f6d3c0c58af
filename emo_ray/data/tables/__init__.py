"""Feature tables that other programs made.

Reading order: columns, files, sources.
"""

from emo_ray.data.tables.sources import MISSING, OK, VERSION, ZEROS, Tables, clip_ids, digest, vector

__all__ = ["MISSING", "OK", "VERSION", "ZEROS", "Tables", "clip_ids", "digest", "vector"]
