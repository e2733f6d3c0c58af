"""Measure what this system's speed rests on: `python jobs/bench.py [decode|stream|step|train|features|predict|all]`.

The part comes first, a recipe may follow: `python jobs/bench.py all mer2024 bench.plan_clips=115595`.
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("experiments.bench.bench", __doc__, choice="bench.part")
