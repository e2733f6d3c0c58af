"""Measure the paper's claims in miniature, over several synthetic worlds and seeds: tables, a page and pictures."""

from emo_ray.cli import main

if __name__ == "__main__":
    main("experiments.claims.claims", __doc__)
