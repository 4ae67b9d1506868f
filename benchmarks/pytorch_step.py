"""The training step in plain PyTorch, with the same work as that of the library: a reference to measure against.

ResNet-18 for small images (channels_last), four rotations, two augmented views, projection head, both losses of the
paper (arXiv:2105.08793, section 3), momentum SGD.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def serve(connection, batch_size: int, size: int, hidden: int, dimension: int) -> None:
    """Run a training step per message and reply with its seconds."""
    torch.manual_seed(0)
    step = make_step(batch_size, size, hidden, dimension)
    while connection.recv():
        start = time.perf_counter()
        step()
        connection.send(time.perf_counter() - start)


def make_step(batch_size: int, size: int, hidden: int, dimension: int):
    """Return a function that trains on one batch and returns the loss."""
    encoder = ResNet18().to(memory_format=torch.channels_last)
    head = nn.Sequential(nn.Linear(512, hidden), nn.ReLU(), nn.Linear(hidden, dimension))
    weights = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(weights, 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    shape = (batch_size, 3, size, size)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    labels = torch.zeros(batch_size * 4, dtype=torch.long)

    def step() -> float:
        upright = images.float() / 255.0
        instances = torch.stack([torch.rot90(upright, k, (2, 3)) for k in range(4)], 1).flatten(0, 1)
        rotations = torch.arange(4).repeat(batch_size)
        views = torch.cat([augment(instances, rotations), augment(instances, rotations)])
        projections = head(encoder(views.contiguous(memory_format=torch.channels_last)))
        loss = losses(functional.normalize(projections), labels, rotations)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut.

    Args:
      channels_in: the number of input channels.
      channels: the number of output channels.
      stride: the stride of the first convolution.
    """

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or channels_in != channels:
            convolution = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(channels))

    def forward(self, x):
        """Apply the block to x [n, channels_in, h, w]."""
        return functional.relu(self.body(x) + self.shortcut(x), inplace=True)


class ResNet18(nn.Module):
    """Encoder [n, 3, s, s] -> [n, 512]."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
        channels_in = 64
        for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [Block(channels_in, channels, stride), Block(channels, channels, 1)]
            channels_in = channels
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        """Embed images."""
        return self.layers(x).mean((2, 3))


def augment(images, rotations):
    """Apply flip, random resized crop, colour jitter and greyscale to images [n, 3, s, s], drawn per image."""
    n = len(images)
    area = 0.08 + 0.92 * torch.rand(n)
    aspect = torch.exp((2.0 * torch.rand(n) - 1.0) * math.log(4.0 / 3.0))
    wide, high = (area * aspect).sqrt().clamp(max=1.0), (area / aspect).sqrt().clamp(max=1.0)
    flip, sideways = torch.rand(n) < 0.5, rotations % 2 == 1
    grid = torch.zeros(n, 2, 3)
    grid[:, 0, 0] = torch.where(flip & ~sideways, -wide, wide)
    grid[:, 1, 1] = torch.where(flip & sideways, -high, high)
    grid[:, 0, 2] = (2.0 * torch.rand(n) - 1.0) * (1.0 - wide)
    grid[:, 1, 2] = (2.0 * torch.rand(n) - 1.0) * (1.0 - high)
    grid = functional.affine_grid(grid, list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, "bilinear", "border", align_corners=False)
    jitter = (torch.rand(n) < 0.8).float()
    factors = 1.0 + (2.0 * torch.rand(3, n) - 1.0) * 0.4 * jitter
    brightness, contrast, saturation = factors.view(3, n, 1, 1, 1)
    for operation in torch.randperm(4).tolist():
        if operation == 0:
            images = images * brightness
        elif operation == 1:
            images = contrast * images + (1.0 - contrast) * luma(images).mean((1, 2, 3), keepdim=True)
        elif operation == 2:
            images = saturation * images + (1.0 - saturation) * luma(images)
        else:
            images = shift_hue(images, ((2.0 * torch.rand(n) - 1.0) * 0.1 * jitter).view(n, 1, 1))
    grey = (torch.rand(n) < 0.2).float().view(n, 1, 1, 1)
    return ((1.0 - grey) * images + grey * luma(images)).clamp(0.0, 1.0)


def luma(images):
    """Return the luma [n, 1, s, s] of images [n, 3, s, s]."""
    red, green, blue = images.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def shift_hue(images, shift):
    """Shift the hue of HSV by `shift` [n, 1, 1] colour circles."""
    red, green, blue = images.unbind(1)
    value, lowest = images.amax(1), images.amin(1)
    chroma = value - lowest
    scale = torch.where(chroma > 0, 1.0 / chroma.clamp(min=1e-12), 0.0)
    hue = torch.where(
        value == red,
        (green - blue) * scale,
        torch.where(value == green, 2.0 + (blue - red) * scale, 4.0 + (red - green) * scale),
    )
    hue = hue + 6.0 * shift
    shifted = []
    for offset in (5.0, 3.0, 1.0):
        sextant = torch.remainder(hue + offset, 6.0)
        shifted.append(value - chroma * torch.minimum(sextant, 4.0 - sextant).clamp(0.0, 1.0))
    return torch.stack(shifted, 1)


def losses(z, labels, rotations, alpha: float = 0.05, beta: float = 5.0, temperature: float = 0.2):
    """Compute the sum of both losses of normalized projections [2 N, D]: first views, then second views."""
    n = len(labels)
    labels, rotations = labels.repeat(2), rotations.repeat(2)
    group = labels * 4 + rotations
    index = torch.arange(2 * n)
    similarity = (z @ z.T).clamp(min=1e-7)
    same_class, same_rotation = labels[:, None] == labels, rotations[:, None] == rotations
    same_instance = index[:, None] % n == index % n
    factor = torch.where(same_rotation, alpha, beta)
    factor = torch.where(same_class & ~same_instance, factor, 1.0 / temperature)
    itself = torch.eye(2 * n, dtype=torch.bool)
    logits = (factor * similarity).masked_fill(itself, -torch.inf)
    positive = (index + n) % (2 * n)
    ccm = torch.logsumexp(logits, 1) - similarity[index, positive] / temperature
    # A partner of the same class and rotation, the same for both views of an instance.
    others = (group[:n, None] == group[:n]) & ~itself[:n, :n]
    partner = torch.multinomial(others.float() + 1e-20, 1)[:, 0]
    partner = torch.cat([partner, partner + n])
    attracted = logits.clone()
    attracted[index, positive] = 0.0
    attracted[index, partner] = similarity[index, partner] / temperature
    spa = torch.logsumexp(attracted, 1) - similarity[index, partner] / temperature
    return ccm.mean() + 0.5 * spa.mean()
