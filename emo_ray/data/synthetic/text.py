"""Transcripts of the synthetic corpus: a small grammar whose remarks tell the class, some of them ambiguously."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Option = TypeVar("Option")

_OPENERS = ("well", "so", "you know", "look", "oh", "listen", "I mean", "today", "hey", "right")
_WHO = ("my sister", "the neighbour", "our teacher", "the doctor", "my boss", "a friend", "she", "he", "the team")
_DID = (
    "called about the exam", "came to the house", "wrote me a letter", "changed the plan", "talked about the trip",
    "left before dinner", "asked for the money", "opened the box", "told me about the job", "moved the meeting",
    "looked at the pictures", "sold the car",
)  # fmt: skip
# Remarks about the story, and the classes that each fits.
_REMARKS = (
    ("it starts at nine as usual", ("neutral",)),
    ("the list is on the table", ("neutral",)),
    ("we can go through it on Monday", ("neutral",)),
    ("it takes about an hour", ("neutral",)),
    ("we will see", ("neutral", "worried")),
    ("that is how it is", ("neutral", "sad")),
    ("that is fine with me", ("neutral", "happy")),
    ("I have had enough of this", ("angry",)),
    ("they never listen to me", ("angry",)),
    ("how dare they do that", ("angry",)),
    ("this is an outrage and it must stop", ("angry",)),
    ("that is not fair", ("angry", "sad")),
    ("I cannot take it any more", ("angry", "sad", "worried")),
    ("are you serious", ("angry", "surprise")),
    ("that is wonderful", ("happy",)),
    ("I am so glad it worked", ("happy",)),
    ("I love it and I want to dance", ("happy",)),
    ("what a great day", ("happy",)),
    ("I cannot believe it", ("happy", "surprise", "angry")),
    ("oh my god", ("happy", "surprise", "worried")),
    ("I miss how it was", ("sad",)),
    ("it is over and I feel alone", ("sad",)),
    ("I cried all night", ("sad",)),
    ("nothing can be done about it", ("sad", "neutral")),
    ("I do not know what to do", ("sad", "worried")),
    ("what if something goes wrong", ("worried",)),
    ("I hope nothing bad happened", ("worried",)),
    ("I am afraid it is not safe", ("worried",)),
    ("I cannot sleep", ("worried", "sad")),
    ("I did not see that coming", ("surprise",)),
    ("wow who would have thought", ("surprise",)),
    ("all of a sudden, just like that", ("surprise",)),
    ("since when", ("surprise", "angry")),
    ("no way", ("surprise", "happy")),
)


def sentence(label: str, rng: np.random.Generator) -> str:
    """A story and two remarks about it; only the remarks tell the class, and some of them fit several classes."""

    def pick(options: Sequence[Option]) -> Option:
        return options[int(rng.integers(len(options)))]

    story = f"{pick(_WHO)} {pick(_DID)}"
    remarks = [words for words, classes in _REMARKS if label in classes]
    first, second = (remarks[i] for i in rng.permutation(len(remarks))[:2])
    parts = pick(((pick(_OPENERS), story, first, second), (first, story, second), (pick(_OPENERS), first, second)))
    text = ", ".join(parts)
    return text[0].upper() + text[1:] + "."
