"""Two models on the same clips: how far one is ahead, and whether chance would do that.

The interval of the lead is by paired bootstrap; McNemar's test looks at the clips that one model alone gets right, and
asks how likely so uneven a share of them would be between models that are equally good (exact, two-sided).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from emo_ray.training.bootstrap import difference_intervals, speaker_groups
from emo_ray.training.metrics import counts, of_counts


def comparison(
    pair_2B: np.ndarray, label_B: np.ndarray, classes: int, speakers: Sequence[str | None], seed: int
) -> dict[str, Any]:
    """The entries of reports.comparison.ModelComparison that follow from the classes that two models name.

    Raises ValueError without clips.
    """
    group_B = speaker_groups(speakers)
    intervals = difference_intervals(pair_2B, label_B, classes, group_B, seed)
    values = of_counts(counts(pair_2B, label_B, classes))
    right_2B = pair_2B == label_B
    only_first, only_second = (int((right_2B[i] & ~right_2B[1 - i]).sum()) for i in (0, 1))
    differing = only_first + only_second
    return {
        "scores": {
            name: {
                "first": float(value_2[0]),
                "second": float(value_2[1]),
                "difference": float(value_2[1] - value_2[0]),
                "interval": [-end for end in reversed(intervals[name])],
            }
            for name, value_2 in values.items()
        },
        "right": {
            "both": int(right_2B.all(axis=0).sum()),
            "only_first": only_first,
            "only_second": only_second,
            "neither": int((~right_2B).all(axis=0).sum()),
        },
        "mcnemar_p": float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0,
        "drawn": "clips" if group_B is None else "speakers",
        "n": len(label_B),
        "n_speakers": len(set(speakers) - {None}),
    }
