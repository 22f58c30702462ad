"""ResNet-18 is torchvision's network, under its names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepchem_mmsa.layers.encoders import make_encoder
from deepchem_mmsa.layers.image_encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ResNet18,
)


def torchvision_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision.models.resnet18().state_dict(), without fc."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    shapes["conv1.weight"] = (64, 3, 7, 7)
    norm("bn1", 64)
    for stage, (before, after) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], 1):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (after, after if block else before, 3, 3)
            norm(f"{name}.bn1", after)
            shapes[f"{name}.conv2.weight"] = (after, after, 3, 3)
            norm(f"{name}.bn2", after)
            if block == 0 and stage > 1:
                shapes[f"{name}.downsample.0.weight"] = (after, before, 1, 1)
                norm(f"{name}.downsample.1", after)
    return shapes


def test_names_and_shapes_are_torchvisions():
    encoder = ResNet18()
    own = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    assert own == torchvision_shapes()
    assert sum(p.numel() for p in encoder.parameters()) == 11_176_512
    assert encoder.out_dim == 512


def test_forward_is_the_definition():
    torch.manual_seed(0)
    encoder = ResNet18(width=8).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    x = (images / 255 - mean) / std
    x = torch.relu(encoder.bn1(nn.functional.conv2d(x, encoder.conv1.weight, stride=2, padding=3)))
    x = nn.functional.max_pool2d(x, 3, 2, 1)
    for stage in range(1, 5):
        for block in getattr(encoder, f"layer{stage}"):
            stride = 2 if stage > 1 and block.downsample is not None else 1
            y = nn.functional.conv2d(x, block.conv1.weight, stride=stride, padding=1)
            y = torch.relu(block.bn1(y))
            y = block.bn2(nn.functional.conv2d(y, block.conv2.weight, padding=1))
            if block.downsample is not None:
                x = block.downsample[1](
                    nn.functional.conv2d(x, block.downsample[0].weight, stride=stride)
                )
            x = torch.relu(x + y)
    expected = nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
    torch.testing.assert_close(encoder(images), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(images.float()), encoder(images))


def test_a_picture_does_not_see_its_neighbours():
    encoder = ResNet18(width=8).eval()
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    together = encoder(images)
    for row, image in zip(together, images):
        torch.testing.assert_close(encoder(image[None])[0], row, rtol=1e-5, atol=1e-5)


def test_no_pictures():
    encoder = ResNet18(width=8)
    assert encoder(torch.zeros(0, 3, 64, 64, dtype=torch.uint8)).shape == (0, 64)


def test_training_reaches_every_parameter_and_repeats():
    def gradients():
        torch.manual_seed(0)
        encoder = ResNet18(width=8)
        encoder(torch.randint(0, 256, (4, 3, 64, 64))).square().sum().backward()
        return [p.grad for p in encoder.parameters()]

    first, second = gradients(), gradients()
    assert all(g is not None and g.abs().sum() > 0 for g in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.parametrize("prefix", ["", "module.", "resnet.", "module.resnet."])
def test_foreign_weights_load(prefix):
    source, target = ResNet18(width=8), ResNet18(width=8)
    weights = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    weights |= {prefix + "fc.weight": torch.zeros(10, 64), prefix + "fc.bias": torch.zeros(10)}
    target.load_torchvision(weights)
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])


def test_old_weights_without_batch_counters_load():
    source, target = ResNet18(width=8), ResNet18(width=8)
    weights = {n: t for n, t in source.state_dict().items() if "num_batches" not in n}
    target.load_torchvision(weights)
    assert torch.equal(target.conv1.weight, source.conv1.weight)


def test_unfit_weights_are_refused_by_name():
    encoder = ResNet18(width=8)
    weights = dict(encoder.state_dict())
    with pytest.raises(ValueError, match="head.weight"):
        encoder.load_torchvision({**weights, "head.weight": torch.zeros(1)})
    del weights["layer4.1.conv2.weight"]
    with pytest.raises(ValueError, match="layer4.1.conv2.weight"):
        encoder.load_torchvision(weights)
    with pytest.raises(ValueError, match=r"width=64.*width=8"):
        encoder.load_torchvision(ResNet18(width=16).state_dict())


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="width=7 must be at least 8"):
        ResNet18(width=7)
    with pytest.raises(ValueError, match=r"\[2, 64, 64\]"):
        ResNet18(width=8)(torch.zeros(2, 64, 64))
    with pytest.raises(ValueError, match=r"'vit'.*resnet18.*nn.Module"):
        make_encoder("image", "vit")


@pytest.mark.parametrize("size", [32, 64])
def test_one_picture_trains_at_any_size(size):
    encoder = ResNet18(8).train()
    encoder(torch.full((1, 3, size, size), 255.0)).sum().backward()
    assert encoder.training
    assert all(p.grad is not None for p in encoder.parameters())


def test_one_small_picture_is_read_where_only_the_norms_train():
    encoder = ResNet18(width=8).eval()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
    assert encoder(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape[0] == 1
    assert encoder.bn1.training
    assert not encoder.training
