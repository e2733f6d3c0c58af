"""Training that diverges: how it is said."""


def diverged(section: str, lr: float, epoch: int) -> str:
    """The message for a run whose weights, losses or logits are no numbers after an epoch (from 0)."""
    return (
        f"{section}.lr={lr:g}: found weights, losses or logits that are not finite in epoch {epoch + 1}, expected "
        f"numbers: lower {section}.lr"
    )


def stopped_early(section: str, lr: float, epochs_done: int, epochs: int) -> str | None:
    """What a user must know of a run that ended before its last epoch; None for a whole run."""
    if epochs_done >= epochs:
        return None
    return f"{diverged(section, lr, epochs_done)}; training stopped there, and the best epoch before it is kept"
