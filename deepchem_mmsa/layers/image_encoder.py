"""Encoder of a molecule's image.

ResNet-18 (He et al. 2016, arXiv 1512.03385) with the parameter names and shapes of torchvision's,
so that its weights and those of ImageMol (Zeng et al. 2022, doi 10.1038/s42256-022-00557-6) load.
It is implemented here because torchvision is not a requirement of this package, and because work
without a GPU needs the smaller ``width=32``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from deepchem_mmsa.layers.single_row import running_statistics

__all__ = ["ResNet18"]

# Mean and standard deviation of ImageNet's channels, which torchvision's weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MIN_WIDTH = 8
_FOREIGN_PREFIXES = ("module.", "resnet.")


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a skip connection.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels before and after.
    stride : int
        Stride of the first convolution; 2 halves the image's side.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[G, in_channels, S, S]`` to ``[G, out_channels, S / stride, S / stride]``."""
        skip = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + skip)


_SINGLE_PIXEL = 32
"""Side of the largest image that the last stage sees as one pixel."""


class ResNet18(nn.Module):
    """ResNet-18 without its classifier: it encodes an image as one vector.

    Parameters
    ----------
    width : int
        Channels of the first stage, at least 8; the last one has eight times as many. 64 is
        torchvision's network (11,176,512 parameters), 32 a four times cheaper one.

    Attributes
    ----------
    out_dim : int
        ``8 * width``.

    Raises
    ------
    ValueError
        When ``width`` is less than 8: on AVX2 processors the convolutions of torch 2.13 (oneDNN)
        with fewer channels write out of bounds in training, and the process aborts.

    Examples
    --------
    >>> encoder = ResNet18(width=8).eval()
    >>> encoder(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape
    torch.Size([2, 64])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        if width < MIN_WIDTH:
            raise ValueError(
                f"width={width} must be at least {MIN_WIDTH}: torch's convolutions with fewer "
                "channels write out of bounds on some processors"
            )
        self.width = width
        self.out_dim = 8 * width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._stage(width, width, stride=1)
        self.layer2 = self._stage(width, 2 * width, stride=2)
        self.layer3 = self._stage(2 * width, 4 * width, stride=2)
        self.layer4 = self._stage(4 * width, 8 * width, stride=2)
        # Not persistent: the state must hold torchvision's names and nothing else. So torch's
        # default type, if it is half precision, would change them.
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            channels = 255 * torch.tensor(values, dtype=dtype, device="cpu").view(1, 3, 1, 1)
            self.register_buffer(name, channels.to(self.conv1.weight.device), persistent=False)
        self.reset_parameters()

    @staticmethod
    def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            BasicBlock(in_channels, out_channels, stride),
            BasicBlock(out_channels, out_channels, 1),
        )

    def reset_parameters(self) -> None:
        """Initialise as He et al. 2015 (arXiv 1502.01852), fan-out."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        """Encode images.

        Parameters
        ----------
        images : Tensor
            ``[G, 3, S, S]``, uint8 or floating, values 0..255; ``G`` may be 0.

        Returns
        -------
        Tensor
            ``[G, out_dim]``.

        Raises
        ------
        ValueError
            When the shape differs.
        """
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be [G, 3, S, S], got {list(images.shape)}")
        if len(images) == 0:
            return self.conv1.weight.new_zeros((0, self.out_dim))
        if len(images) == 1 and max(images.shape[2:]) <= _SINGLE_PIXEL and self.bn1.training:
            with running_statistics(self):
                return self(images)
        x = ((images.to(self.mean.dtype) - self.mean) / self.std).to(self.conv1.weight.dtype)
        # With channels last the convolutions are a quarter faster on a CPU. Only the input is
        # converted: the weights stay contiguous, as checkpoint formats require.
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))

    def load_torchvision(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load weights under torchvision's or ImageMol's names.

        ``fc.*`` is ignored, the prefixes ``module.`` and ``resnet.`` are dropped; all other names
        and shapes must match exactly.

        Parameters
        ----------
        state_dict : mapping of str to Tensor
            For example ``torchvision.models.resnet18(weights=...).state_dict()``.

        Raises
        ------
        ValueError
            When names are missing or unknown, or a shape differs; the message lists them.

        Examples
        --------
        >>> source, target = ResNet18(width=8), ResNet18(width=8)
        >>> target.load_torchvision({"module." + k: v for k, v in source.state_dict().items()})
        """
        plain = {_without_prefixes(name): tensor for name, tensor in state_dict.items()}
        plain = {name: tensor for name, tensor in plain.items() if not name.startswith("fc.")}
        own = self.state_dict()
        # Weights saved before 2018 lack the batch counters, which do not affect the result.
        missing = [n for n in own if n not in plain and not n.endswith("num_batches_tracked")]
        unknown = [n for n in plain if n not in own]
        if missing or unknown:
            raise ValueError(
                f"These are not the weights of a ResNet-18: missing {missing[:5]}"
                f"{' ...' if len(missing) > 5 else ''}, unknown {unknown[:5]}"
                f"{' ...' if len(unknown) > 5 else ''}"
            )
        for name, tensor in plain.items():
            if tensor.shape != own[name].shape:
                raise ValueError(
                    f"{name} is {list(tensor.shape)} in the given weights and "
                    f"{list(own[name].shape)} here; torchvision's weights need width=64, "
                    f"this encoder has width={self.width}"
                )
        self.load_state_dict(plain, strict=False)


def _without_prefixes(name: str) -> str:
    stripped = True
    while stripped:
        stripped = False
        for prefix in _FOREIGN_PREFIXES:
            if name.startswith(prefix):
                name, stripped = name[len(prefix) :], True
    return name
