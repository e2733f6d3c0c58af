"""Make every fault that a job should survive or refuse, on real jobs with tiny stores, and say how each of them ended.

example: python jobs/chaos.py mini 'chaos.only=[SIGKILL*]'
result:  STORE/chaos/DATE-TIME with the table of faults, outcomes and seconds as JSON and as Markdown
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("experiments.chaos.chaos", __doc__, ("chaos",))
