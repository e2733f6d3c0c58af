"""Report on a checkpoint, or on the model this config trains (made first where missing), over all seven subsets."""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.evaluate", __doc__)
