"""`python -m emo_ray JOB ...` is the command `emo-ray JOB ...`, where nothing was installed."""

from emo_ray.cli import console_script

if __name__ == "__main__":
    console_script()
