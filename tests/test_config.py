"""Configuration: plain data that refuses what cannot be, and survives a round trip."""

import json
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.config import PRESETS, MMSAConfig
from deepchem_mmsa.molecule import MODALITIES


@settings(max_examples=40, deadline=None)
@given(
    modalities=st.sets(st.sampled_from(MODALITIES), min_size=1),
    k=st.integers(1, 32),
    weights=st.none() | st.just("balanced") | st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)),
    mode=st.sampled_from(["pretraining", "classification", "regression"]),
)
def test_json_round_trip(modalities, k, weights, mode):
    config = MMSAConfig(
        mode=mode, modalities=tuple(modalities), n_neighbors=k, class_weights=weights
    )
    again = MMSAConfig.from_json(config.to_json())
    assert again == config
    json.dumps(config.to_dict())


def test_order_of_modalities_does_not_matter():
    assert MMSAConfig(modalities=("geometry", "image")) == MMSAConfig(
        modalities=("image", "geometry")
    )
    assert MMSAConfig(modalities="graph").modalities == ("graph",)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name):
    assert MMSAConfig.preset(name, mode="regression").mode == "regression"


def test_numpy_integers_become_plain():
    config = MMSAConfig(n_tasks=np.int64(12), batch_size=np.int32(7))
    assert type(config.n_tasks) is int
    assert json.loads(config.to_json())["batch_size"] == 7


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"modalities": ("image", "smell")}, r"choose a non-empty subset of .*geometry"),
        ({"modalities": ()}, "non-empty subset"),
        ({"mode": "regresion"}, "choose one of .*'regression'"),
        ({"n_neighbors": 9, "n_anchors": 8}, r"n_neighbors=9 \(k\) is larger than n_anchors=8"),
        ({"learning_rate": -1}, "learning_rate=-1.0: must be a positive number"),
        ({"learning_rate": float("nan")}, "positive number"),
        ({"n_tasks": 0}, "n_tasks=0: must be a whole number of at least 1"),
        ({"n_tasks": 1.5}, "whole number"),
        ({"head_layers": 10**9}, "head_layers=1000000000: must be at most 1000"),
        ({"n_tasks": float("nan")}, "n_tasks=nan: must be a whole number"),
        ({"n_anchors": float("inf")}, "n_anchors=inf: must be a whole number"),
        ({"w_con": float("inf")}, r"w_con=inf: must be in \[0, inf\)"),
        ({"weight_decay": float("nan")}, "weight_decay=nan: must be in"),
        ({"graph_dropout": 1.0}, r"graph_dropout=1.0: must be in \[0, 1\)"),
        ({"class_weights": (1, 2, 3)}, "class_weights has 3 values for n_classes=2"),
        ({"class_weights": "even"}, "class_weights='even'"),
        ({"w_con": -0.1}, "w_con"),
        ({"features": "all"}, "features='all'"),
        ({"graph_readout": "mean+median"}, "choose mean, sum or max"),
        ({"graph_readout": "max+max"}, "choose mean, sum or max"),
        ({"atom_sum": True, "modalities": ("image",)}, "atom_sum=True.*has no graph; add it"),
        ({"graph_jk": "sum"}, "graph_jk='sum'"),
        ({"n_neighbors": "eight"}, "n_neighbors='eight': must be a whole number of at least 1"),
        ({"n_neighbors": None}, "n_neighbors=None: must be a whole number of at least 1"),
        ({"seed": [1]}, r"seed=\[1\]: must be a whole number of at least 0"),
        ({"seed": 2**64}, r"seed=18446744073709551616: must be below 2\*\*64"),
        ({"w_con": None}, r"w_con=None: must be in \[0, inf\)"),
        ({"temperature": "low"}, "temperature='low': must be a positive number"),
        ({"modalities": None}, r"modalities=\(None,\): choose a non-empty subset"),
        ({"class_weights": 3}, "class_weights=3: must be a sequence of numbers"),
        ({"class_weights": [1, "a"]}, r"class_weights=\[1, 'a'\]: must be a sequence of numbers"),
    ],
)
def test_errors_name_field_and_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        MMSAConfig(**arguments)


@pytest.mark.parametrize("value", [-1, float("nan"), "any other"], ids=str)
def test_every_field_is_checked_and_named(value):
    for field in fields(MMSAConfig):
        if field.name not in MODALITIES:  # names of encoders, which the network knows
            with pytest.raises(ValueError, match=field.name):
                MMSAConfig(**{field.name: value})


@pytest.mark.parametrize("names", [None, ("mode", "seed")])
def test_differences_are_those_of_the_fields_asked_for(names):
    one, other = MMSAConfig(seed=1, n_tasks=2), MMSAConfig(seed=2, n_tasks=3)
    told = ["n_tasks: 2, not 3"] * (names is None) + ["seed: 1, not 2"]
    assert one.differences(other, names) == told
    assert one.differences(one.replace(), names) == []


def test_unknown_argument_gets_a_hint():
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        MMSAConfig().replace(learning_rat=0.1)
    with pytest.raises(ValueError, match="no preset 'huge'"):
        MMSAConfig.preset("huge")


def test_every_field_is_documented():
    text = MMSAConfig.__doc__ or ""
    missing = [field.name for field in fields(MMSAConfig) if field.name not in text]
    assert missing == []


@pytest.mark.parametrize("weights", [(-1, 2), (float("nan"), 1), (0, 0), (float("inf"), 1)])
def test_weights_of_classes_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="finite, at least 0, and not all 0"):
        MMSAConfig(mode="classification", class_weights=weights)


@pytest.mark.parametrize(
    "given",
    [{"hypergraph": "false"}, {"hydrogens": "no"}, {"memory": 2}, {"image_size": 100_000}],
    ids=str,
)
def test_what_would_be_misread_is_refused(given):
    (name,) = given
    with pytest.raises(ValueError, match=f"{name}=.*must be"):
        MMSAConfig.from_dict(given)


def test_truth_is_plain():
    config = MMSAConfig(hypergraph=np.bool_(False), memory=1)
    assert (config.hypergraph, config.memory) == (False, True)
    assert isinstance(config.hypergraph, bool)
    json.dumps(config.to_dict())
