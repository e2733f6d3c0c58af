"""What the live page shows of an answer, as pieces of HTML in which strings from data are escaped."""

from collections.abc import Collection, Mapping, Sequence
from html import escape

from emo_ray.config.model_settings import MODALITIES
from emo_ray.reports.cards import unfamiliar_words
from emo_ray.reports.wording import clock, whole_percent
from emo_ray.stages.serving.answers import Answer

STYLE = """
.er.er table, .er.er tr { border: 0 }
.er table { border-collapse: collapse; width: 100% }
.er.er th, .er.er td { padding: .2rem .5rem; text-align: left; white-space: nowrap; border: 0;
  border-bottom: 1px solid rgb(128 128 128 / .35) }
.er.er th[scope=col] { white-space: normal; vertical-align: bottom }
.er .scroll { overflow-x: auto }
.er .about { opacity: .8; margin: .8rem 0 .3rem }
.er meter { width: 100%; min-width: 5rem; height: .9rem }
.er .label { font-size: 1.6rem; font-weight: 600 }
.er .frames { display: flex; flex-wrap: wrap; gap: .5rem; padding-bottom: .4rem }
.er figure { margin: 0; flex: none }
.er .frames img { height: 5rem; width: auto; max-width: none; border-radius: .3rem; display: block }
.er figcaption { font-size: .85rem }
.er .said { font-style: italic }
"""


def chosen(answer: Answer, shown: Collection[str]) -> Mapping[str, float] | None:
    """The probabilities of a clip that is shown with some modalities alone; None where it has none of them."""
    usable = [name for name in MODALITIES if name in answer.parts]
    kept = [name for name in usable if name in shown]
    if not kept:
        return None
    if len(kept) == len(usable):
        return answer.probabilities
    if len(kept) == 1:
        return answer.parts[kept[0]]
    return answer.without[next(name for name in usable if name not in kept)]


def verdict(answer: Answer, shown: Collection[str]) -> str:
    """The label and the probability of every class, with the modalities that are switched on."""
    probabilities = chosen(answer, shown)
    if probabilities is None:
        return _section("<p>None of the modalities that are switched on can be used in this clip.</p>" + _why(answer))
    label = max(probabilities, key=probabilities.__getitem__)
    head = f"<p class=label>{escape(label)} {whole_percent(probabilities[label])}</p>"
    names = [name for name in MODALITIES if name in answer.parts and name in shown]
    caption = f"Calibrated probability of each class, from {' and '.join(names)}."
    return _section(head + _bars(probabilities, caption) + _why(answer))


def details(answer: Answer) -> str:
    """What each modality gives alone, the words, the frames that were used, and the stretches of a longer clip."""
    pieces = [_alone(answer)]
    if answer.text:
        pieces.append(f"<p>Words: <span class=said>{escape(answer.text)}</span></p>")
    if answer.frames:
        pieces.append(_frames(answer))
    if answer.over_time:
        pieces.append(_over_time(answer))
    return _section("".join(pieces))


def refusal(reason: object) -> str:
    """Why there is no answer."""
    return _section(f"<p role=alert>{escape(str(reason))}</p>")


def _section(content: str) -> str:
    return f"<div class=er>{content}</div>"


def _bars(probabilities: Mapping[str, float], caption: str) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td><meter max=1 value={share:.4f}>{whole_percent(share)}</meter></td>"
        f"<td>{whole_percent(share)}</td></tr>"
        for name, share in sorted(probabilities.items(), key=lambda item: -item[1])
    )
    return _table(caption, rows)


def _why(answer: Answer) -> str:
    """What became of modalities that are not used, and which are unlike the training clips."""
    odd = [f"{name}: {status}" for name, status in answer.statuses.items() if status != "ok"]
    notes = ["; ".join(odd)] if odd else []
    notes += [unfamiliar_words(answer.unfamiliar)] if answer.unfamiliar else []
    return "".join(f"<p>{escape(note)}</p>" for note in notes)


def _alone(answer: Answer) -> str:
    names = [name for name in MODALITIES if name in answer.parts]
    left_out = names if len(names) > 2 else []  # of two modalities, one alone is what is left without the other
    head = "".join(f"<th scope=col>{name} alone</th>" for name in names)
    head += "".join(f"<th scope=col>without {name}</th>" for name in left_out)
    rows = ""
    for label in answer.probabilities:
        shares = [answer.parts[name][label] for name in names]
        shares += [answer.without[name][label] for name in left_out]
        cells = "".join(f"<td>{whole_percent(share)}</td>" for share in [answer.probabilities[label], *shares])
        rows += f"<tr><th scope=row>{escape(label)}</th>{cells}</tr>"
    without = ", and what the others give without it" if left_out else ""
    caption = f"All that the clip has, and each modality alone{without}."
    return _table(caption, f"<tr><th scope=col>class</th><th scope=col>all</th>{head}</tr>{rows}")


def _frames(answer: Answer) -> str:
    weights: Sequence[float | None] = answer.attention or [None] * len(answer.frames)
    figures = "".join(
        f"<figure><img src='data:image/jpeg;base64,{jpeg}' alt='frame {i} that the model saw'><figcaption>"
        f"{'' if weight is None else whole_percent(weight)}</figcaption></figure>"
        for i, (jpeg, weight) in enumerate(zip(answer.frames, weights, strict=True), 1)
    )
    about = " Below each: its share of the attention over frames." if answer.attention else ""
    caption = f"The frames as the model saw them, cut out around the face where one was found.{about}"
    return f"<p class=about>{caption}</p><div class=frames>{figures}</div>"


def _over_time(answer: Answer) -> str:
    """A row for each stretch, a column for each class; the more likely, the darker, and the most likely is bold."""
    head = "".join(f"<th scope=col>{escape(label)}</th>" for label in answer.probabilities)
    rows = ""
    for part in answer.over_time:
        cells = "".join(
            _shaded(part.probabilities.get(label, 0.0), label == part.label) for label in answer.probabilities
        )
        rows += f"<tr><th scope=row>{clock(part.start_s)} to {clock(part.end_s)}</th>{cells}</tr>"
    return _table("Over time: the probability of each class in each stretch.", f"<tr><td></td>{head}</tr>{rows}")


def _shaded(share: float, is_most: bool) -> str:
    words = f"<b>{whole_percent(share)}</b>" if is_most else whole_percent(share)
    return f"<td style='background: rgb(0 114 178 / {0.55 * share:.2f})'>{words}</td>"


def _table(about: str, rows: str) -> str:
    """A table that scrolls where it is wider than the page, below what it shows."""
    return f"<p class=about>{about}</p><div class=scroll><table aria-label='{about}'>{rows}</table></div>"
