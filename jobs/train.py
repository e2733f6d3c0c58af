"""Train EmoVCLIP's prompts and then the fusion head; stages that are missing before it run first."""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.train", __doc__)
