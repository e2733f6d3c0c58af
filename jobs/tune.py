"""Search for the best recipe, on validation clips alone: `'tune.space.fusion.lr={loguniform: [1e-4, 1e-2]}'`."""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.tune", __doc__)
