"""The four nets of the study, none with batch normalisation; three are built of these convolutions.

All take (N, 3, 32, 32) and give (N, 10) scores. Activations are not in place: behind one that is,
the package lsuv measures the activation (on a CPU), and here it shall be at its best.

Read next: bench/README.md.
"""

import torch
from torch import nn

CLASSES = 10


def conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU()]


def vgg() -> nn.Module:
    """VGG's plan, narrow: six convolutions, then two linear layers."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [*conv(inputs, outputs), *conv(outputs, outputs), nn.MaxPool2d(2)]
    head = [nn.Flatten(), nn.Linear(64 * 4 * 4, 128), nn.ReLU(), nn.Linear(128, CLASSES)]
    return nn.Sequential(*layers, *head)


def plain30() -> nn.Module:
    """Thin and deep: 29 convolutions in a chain and a linear layer."""
    layers = conv(3, 16, stride=2)
    for inputs, outputs, depth, stride in ((16, 16, 14, 1), (16, 32, 14, 2)):
        layers += conv(inputs, outputs, stride)
        for _ in range(depth - 1):
            layers += conv(outputs, outputs)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


class Block(nn.Module):
    """relu(shortcut(x) + conv(relu(conv(x)))), without batch normalisation."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.branch = nn.Sequential(
            *conv(inputs, outputs, stride), nn.Conv2d(outputs, outputs, 3, 1, 1)
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        return torch.relu(self.shortcut(x) + self.branch(x))


def resnet20() -> nn.Module:
    """ResNet-20 at half its width, without batch normalisation."""
    layers, inputs = conv(3, 8), 8
    for outputs in (8, 16, 32):
        for number in range(3):
            stride = 2 if number == 0 and outputs > 8 else 1
            layers.append(Block(inputs, outputs, stride))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


class ViT(nn.Module):
    """A vision transformer: 64 patches of 4x4, width 64, four layers of PyTorch's encoder."""

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.places = nn.Parameter(0.02 * torch.randn(1, 64, width))
        self.encoder = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, heads, 4 * width, 0.0, nn.GELU(), batch_first=True, norm_first=True
                )
                for _ in range(depth)
            )
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.encoder(x)).mean(1))


NETS = {
    "VGG-like": vgg,
    "plain, 30 layers": plain30,
    "ResNet-20, no norm": resnet20,
    "small ViT": ViT,
    "plain, 30 layers, slow": plain30,
}
