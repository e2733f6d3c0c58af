"""Measure what this system's speed rests on, as ratios in one run; and estimate hours and bytes for a larger corpus.

The first word chooses what is measured, a recipe may follow.

example: python jobs/bench.py all mer2024 bench.plan_clips=115595
result:  STORE/bench/DATE-TIME/bench.json, whose tables are printed
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("experiments.bench.bench", __doc__, ("bench",), choice="bench.part")
