"""Pseudo-label the unlabelled clips of a corpus with a teacher: calibrate, select, and write a row for every clip."""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.pseudo_label", __doc__)
