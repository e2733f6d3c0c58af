"""Self-training: a teacher labels unlabelled clips, a student learns from both, round by round while validation gains.

`checkpoint=FOLDER` teaches first, else a model is trained. rounds.most=N of a finished run gives the state after round
N back, at no cost.

example: python jobs/self_train.py mini rounds.most=3 rounds.start=warm
result:  STORE/self_train/KEY with rounds.json, a table and a picture of all rounds, and the best checkpoint's path
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.self_train", __doc__, ("rounds", "pseudo", "emovclip", "audio", "text", "fusion", "train", "annotate"))
