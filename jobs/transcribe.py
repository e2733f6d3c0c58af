"""Write down what is said in the clips that have no transcript.

example: python jobs/transcribe.py mini data.manifest=clips.csv transcribe.model=openai/whisper-small
result:  STORE/transcripts/transcripts-KEY.parquet: text, language and status, a row for each clip that had no text
"""

from emo_ray.cli import main

if __name__ == "__main__":
    main("stages.transcribe", __doc__, ("transcribe",))
