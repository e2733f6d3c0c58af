"""Predict every clip of a table, of a folder of media, or of a folder that jobs/prepare.py made.

example: python jobs/predict.py mini checkpoint=MODEL_FOLDER data.manifest=videos/
result:  STORE/predictions/KEY/part-*.parquet: probabilities and statuses, a row for each clip; timelines/ of recordings
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.predict", __doc__, ("train", "annotate", "segment"))
