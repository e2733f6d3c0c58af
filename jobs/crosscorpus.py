"""Train a model on each of several corpora, and test each on all of them, over the classes that both have.

example: python jobs/crosscorpus.py mini 'crosscorpus.corpora={a: {data.manifest: a.csv}, b: {data.manifest: b.csv}}'
result:  STORE/reports/corpora-KEY with tables of corpora by corpora: report.html, report.md, report.json
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.crosscorpus", __doc__, ("crosscorpus", "emovclip", "audio", "text", "fusion", "train", "annotate"))
