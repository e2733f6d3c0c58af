"""Pseudo-label the unlabelled clips of a corpus with a teacher: calibrate it, select, write a row for every clip.

example: python jobs/pseudo_label.py mini checkpoint=MODEL_FOLDER pseudo.quantile=0.3
result:  STORE/pseudo_labels/KEY/round-N: the rows, why clips were refused, a report; see train.pseudo_labels
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.pseudo_label", __doc__, ("pseudo", "train", "annotate"))
