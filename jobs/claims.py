"""Measure the paper's claims in miniature, over several synthetic worlds and seeds.

example: python jobs/claims.py mini claims.worlds=3 claims.seeds=3
result:  STORE/claims/KEY with the tables as JSON, as a page with pictures, and as Markdown
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("experiments.claims.claims", __doc__, ("claims", "emovclip", "audio", "text", "fusion", "train", "pseudo"))
