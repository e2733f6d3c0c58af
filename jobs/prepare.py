"""Decode a corpus into shards: clips on disk -> a checked manifest, splits, Parquet shards, a ledger of bad media."""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.prepare", __doc__)
