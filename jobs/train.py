"""Train a model: EmoVCLIP's prompts, then the fusion head. Stages that are missing before it run first.

example: python jobs/train.py mini data.manifest=clips.csv train.epochs=20
result:  STORE/checkpoints/model-KEY with the trained weights, config.yaml, labels.json and a model card
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.train", __doc__, ("emovclip", "audio", "text", "fusion", "train", "annotate"))
