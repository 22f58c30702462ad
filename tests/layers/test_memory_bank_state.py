"""The memory bank's state: it resumes bit for bit."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.layers.memory_bank import MemoryBank
from tests.layers.test_memory_bank import clustered, named, started


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same(a, b):
    for name, tensor in a.state_dict().items():
        other = b.state_dict()[name]
        if name == "_extra_state":
            assert torch.equal(tensor.pop("recent_codes"), other.pop("recent_codes"))
            assert tensor == other
        else:
            assert torch.equal(tensor, other), name
    assert a.exemplars == b.exemplars


@given(break_at=st.integers(0, 30), update=st.sampled_from(["ema", "gradient"]))
@settings(deadline=None, max_examples=10)
def test_resumes_bit_for_bit(break_at, update):
    """Through the warm-up, the start, and several re-seedings."""

    def fresh():
        return MemoryBank(10, 16, warmup=100, dead_after=18, seed=3, update=update)

    whole, parts = fresh(), fresh()
    for step in range(30):
        if step == break_at:
            state = through_a_file(parts.state_dict())
            parts = fresh()
            parts.load_state_dict(state)
        codes, _ = clustered(9, n_clusters=30, seed=step, noise=0.5)
        for bank in (whole, parts):
            bank.update(codes, named(9, f"{step}N"))
    assert whole.is_active
    assert_same(whole, parts)


def test_a_copy_that_loads_another_state_counts_its_anchors_anew():
    """Also where its tensors have got the version at which the original's were counted."""
    full, few, bank = started(), MemoryBank(8, 16, warmup=16), MemoryBank(8, 16)
    few.update(clustered(16)[0])
    for _ in range(4):
        bank.load_state_dict(full.state_dict())
        assert len(bank.active_anchors()) == 8
        for loads in range(1, 4):
            twin = copy.deepcopy(bank)
            for _ in range(loads):
                twin.load_state_dict(few.state_dict())
            assert len(twin.active_anchors()) == int(few.n_active) == 2


def test_a_bank_made_for_inference_knows_its_anchors():
    bank = started()
    with torch.inference_mode():
        twin = copy.deepcopy(bank)
        assert twin.is_active
    assert len(twin.active_anchors()) == len(bank.active_anchors())
    sleeping = MemoryBank(8, 16)
    assert not copy.deepcopy(sleeping).is_active
    sleeping.load_state_dict(bank.state_dict())
    assert sleeping.is_active


def test_state_dictionaries_are_snapshots():
    bank = started()
    state = bank.state_dict()["_extra_state"]
    codes, exemplars = state["recent_codes"].clone(), copy.deepcopy(state["exemplars"])
    bank.update(clustered(20, seed=4)[0], named(20, "N"))
    assert torch.equal(state["recent_codes"], codes)
    assert state["exemplars"] == exemplars


def test_loads_without_training_state_and_resets_it():
    bank = started()
    weights = {k: v for k, v in bank.state_dict().items() if isinstance(v, torch.Tensor)}
    other = started(seed=5)
    other.load_state_dict(weights)
    codes = clustered(4)[0]
    assert torch.equal(bank.address(codes), other.address(codes))
    assert not any(other.exemplars)
    assert len(other.recent_codes) == 0
    network = torch.nn.ModuleDict({"memory": started()})
    network.load_state_dict({f"memory.{k}": v for k, v in weights.items()})
    other.update(codes, named(4))  # and training can go on from there


def test_buffers_fit_safetensors(tmp_path):
    from safetensors.torch import load_file, save_file

    bank = started()
    weights = {k: v for k, v in bank.state_dict().items() if isinstance(v, torch.Tensor)}
    shapes = {k: v.shape for k, v in MemoryBank(8, 16).state_dict().items() if k in weights}
    assert {k: v.shape for k, v in weights.items()} == shapes
    save_file(weights, tmp_path / "bank.safetensors")
    other = MemoryBank(8, 16)
    other.load_state_dict(load_file(tmp_path / "bank.safetensors"))
    assert torch.equal(other.anchors, bank.anchors)
    assert other.is_active


def test_deep_copy_is_independent():
    bank = started()
    twin = copy.deepcopy(bank)
    assert_same(bank, twin)
    bank.update(clustered(20, seed=4)[0])
    assert not torch.equal(bank.anchors, twin.anchors)


def test_another_configuration_is_refused():
    with pytest.raises((ValueError, RuntimeError), match="configuration|size mismatch"):
        MemoryBank(9, 16).load_state_dict(started().state_dict())
