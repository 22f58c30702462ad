"""DeepChem's optimizers and schedules, as the training loop uses them."""

import math
import pickle

import numpy as np
import pytest
from deepchem.models import optimizers as dc_optimizers

from deepchem_mmsa.optimizers import cosine_factor, rate_factor

N_STEPS = 8
SCHEDULES = {
    "polynomial": dc_optimizers.PolynomialDecay(1e-2, 1e-3, 6, power=2.0),
    "linear cosine": dc_optimizers.LinearCosineDecay(1e-2, 6, alpha=0.1, beta=0.01),
    "piecewise": dc_optimizers.PiecewiseConstantSchedule(1e-2, {2: 0.5, 4: 0.1}),
    "exponential": dc_optimizers.ExponentialDecay(1e-2, 0.5, 2),
}


def written_out(name, step):
    """The rate of a schedule after so many steps, from its definition."""
    t = min(step, 6) / 6
    if name == "polynomial":
        return (1e-2 - 1e-3) * (1 - t) ** 2 + 1e-3
    if name == "linear cosine":
        return 1e-2 * ((0.1 + 1 - t) * 0.5 * (1 + math.cos(math.pi * t)) + 0.01)
    if name == "piecewise":
        return 1e-2 * (0.5 if step > 2 else 1) * (0.1 if step > 4 else 1)
    return 1e-2 * 0.5 ** (step // 2)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("parts", ["all", "head"])
def test_every_schedule_has_the_rates_of_its_definition(make_model, graph_dataset, name, parts):
    model, rates = make_model(mode="regression", learning_rate=SCHEDULES[name], batch_size=10), []
    variables = None if parts == "all" else list(model.model.head.parameters())
    before = model.optimizer_for(variables)[0].param_groups[0]["lr"]

    def note(model, step):
        rates.append(model.optimizer_for(variables)[0].param_groups[0]["lr"])

    model.fit(graph_dataset, 2, checkpoint_interval=0, callbacks=note, variables=variables)
    expected = [written_out(name, step) for step in range(N_STEPS + 1)]
    assert [before, *rates] == pytest.approx(expected)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_with_a_schedule_resumes_and_is_copied(make_model, graph_dataset, tmp_path, name):
    given = {"mode": "regression", "learning_rate": SCHEDULES[name]}
    whole = make_model(**given)
    whole.fit(graph_dataset, 2)
    make_model(**given, model_dir=str(tmp_path)).fit(graph_dataset, 1)
    resumed = make_model(**given, model_dir=str(tmp_path))
    resumed.fit(graph_dataset, 2, restore=True)
    copied = pickle.loads(pickle.dumps(resumed))
    for model in (resumed, copied):
        assert model.history == whole.history
        np.testing.assert_array_equal(model.predict(graph_dataset), whole.predict(graph_dataset))


def test_a_schedule_of_ones_own_decides(make_model):
    class Halving(dc_optimizers.PolynomialDecay):
        def _create_pytorch_schedule(self, optimizer):
            return dc_optimizers.ExponentialDecay(1.0, 0.5, 1)._create_pytorch_schedule(optimizer)

    model = make_model(mode="regression", learning_rate=Halving(1e-2, 1e-3, 6))
    model._lr_schedule.optimizer.step()
    model._lr_schedule.step()
    assert model._lr_schedule.get_last_lr()[0] == pytest.approx(5e-3)
    assert rate_factor(SCHEDULES["polynomial"], 100) == pytest.approx(0.1)


@pytest.mark.parametrize("total", [1, 3, 25, 100])
def test_a_cosine_schedule_rises_to_one_and_falls_for_good(total):
    factors = [cosine_factor(step, total) for step in range(total + 9)]
    top = factors.index(1.0)
    assert max(factors) == 1
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert factors[-1] == pytest.approx(0.01)
