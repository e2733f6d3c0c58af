"""Run the frozen sound and text encoders over shards (and a checkpoint's EmoVCLIP over video), once per encoder.

With `tables.export=FOLDER` they are left there for others, as .npy for each clip and as Parquet.
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.features", __doc__)
