"""Prepare a corpus: check its manifest, cut splits, decode every clip once into shards, list bad media.

example: python jobs/prepare.py mini data.manifest=clips.csv data.columns.video=file
result:  STORE/prepared/KEY with manifest.parquet, ledger.parquet, bad_media.csv and a contact sheet
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.prepare", __doc__)
