"""Train and test the fusion head in folds that no speaker crosses, for small corpora.

example: python jobs/crossvalidate.py mini data.manifest=clips.csv data.folds=6 tables.audio=[hubert/,whisper.npz]
result:  STORE/reports/folds-KEY with the scores of each fold and of all clips together, and predictions.parquet
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.crossvalidate", __doc__, ("evaluate", "audio", "text", "fusion", "train", "annotate"))
