"""Predict with a checkpoint: every clip of a table, of a folder of media, or of a folder that prepare made."""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.predict", __doc__)
