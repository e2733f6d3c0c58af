"""Ask a chat endpoint for a reading of the speaker's emotional state in every transcript, each one once.

example: python jobs/annotate.py mini annotate.url=http://127.0.0.1:8000/v1 annotate.model=MODEL
result:  STORE/readings/KEY/readings-KEY.parquet; the text encoder uses it in jobs with the same annotate.url
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.annotate", __doc__, ("annotate",))
