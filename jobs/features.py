"""Encode a corpus: features of sound and text, and of video where `checkpoint` names a trained model.

example: python jobs/features.py mini data.manifest=clips.csv tables.export=features/
result:  STORE/features, a folder for each modality; with tables.export a copy for others, .npy per clip and Parquet
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.features", __doc__, ("audio", "text", "annotate", "train"))
