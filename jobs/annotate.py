"""Ask a chat endpoint for a reading of the speaker's emotional state in every transcript: annotate.url=... (README)."""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.annotate", __doc__)
