"""Self-training: a teacher labels unlabelled clips, a student learns from both, round by round while validation gains.

`checkpoint=FOLDER` teaches first, else a model is trained. `rounds.most=N` of a run that is done gives the state after
round N back, at no cost.
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.self_train", __doc__)
