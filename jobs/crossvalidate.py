"""Train and test the fusion head in folds grouped by speaker: `data.folds=6 tables.audio=[hubert/,whisper.npz] ...`."""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.crossvalidate", __doc__)
