"""Cut recordings of any length into utterances: a manifest, which every other job takes as data.manifest.

example: python jobs/segment.py mini data.manifest=recordings/
result:  STORE/segments/KEY/manifest.parquet: a row for each utterance, with its times in its recording
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.segment", __doc__, ("segment",))
