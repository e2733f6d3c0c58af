"""Report on `checkpoint`, or on the model that the config trains (made first), over all subsets of the modalities.

example: python jobs/evaluate.py mini evaluate.split=validation
result:  STORE/reports/KEY with report.json, report.html, pictures and predictions.parquet
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.evaluate", __doc__, ("evaluate", "emovclip", "audio", "text", "fusion", "train", "annotate"))
