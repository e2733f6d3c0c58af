"""The moving average of weights: against its recursion in plain numbers, and put in the place of the weights."""

import pytest
import torch
from torch import nn

from emo_ray.training.weight_average import WeightAverage


def stepped(average_decay, steps):
    """A model of one trained and one frozen number after some steps, its average, and what it was after each step."""
    model = nn.ParameterDict({"trained": torch.zeros(1), "frozen": torch.full((1,), 5.0)})
    model["frozen"].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    average, values = WeightAverage(model, optimizer, average_decay), []
    for step in range(steps):
        model["trained"].grad = torch.full((1,), -float(step + 1))
        optimizer.step()
        values.append(model["trained"].item())
    return model, average, values


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_is_its_recursion_with_a_decay_that_rises(decay):
    model, average, values = stepped(decay, 30)
    expected = 0.0
    for step, value in enumerate(values):
        share = min(decay, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * value
    with average.applied():
        assert model["trained"].item() == pytest.approx(expected, rel=1e-5)
        assert model["frozen"].item() == 5
    assert model["trained"].item() == values[-1]


def test_a_state_goes_on_where_it_was_taken():
    _, average, _ = stepped(0.9, 7)
    _, other, _ = stepped(0.9, 2)
    other.load(average.state())
    assert other.steps == 7
    assert torch.equal(other.values["trained"], average.values["trained"])
