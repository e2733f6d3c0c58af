"""Search for the best recipe: trials with other values of the keys in tune.space, judged on validation clips alone.

example: python jobs/tune.py mini tune.trials=50 'tune.space.fusion.lr={loguniform: [1e-4, 1e-2]}'
result:  STORE/sweeps/KEY with best.yaml (a recipe for any job), sweep.json, tables and pictures of all trials
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.tune", __doc__, ("tune", "emovclip", "audio", "text", "fusion", "train", "annotate"))
