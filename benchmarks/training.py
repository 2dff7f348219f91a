"""One training step: ours against the plainest PyTorch writing of the same networks."""

import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ecglib import models

BATCH, ROUNDS = 64, 12


class PlainNet1d(nn.Module):
    """Net1D as one would write it from the paper: Conv1d on (batch, channel, time), explicit padding, no layout."""

    def __init__(self, ours):
        super().__init__()
        self.ours = ours  # the same parameters

    @staticmethod
    def conv(layer, x):
        kernel, stride, n_times = layer.kernel_size[0], layer.stride[0], x.shape[-1]
        total = max(0, (math.ceil(n_times / stride) - 1) * stride + kernel - n_times)
        x = F.pad(x, (total // 2, total - total // 2))
        return F.conv1d(x, layer.weight, layer.bias, stride, groups=layer.groups)

    def block(self, b, x):
        h = self.conv(b.conv1, x if b.first else x * torch.sigmoid(x))
        h = self.conv(b.conv2, h * torch.sigmoid(h))
        h = self.conv(b.conv3, h * torch.sigmoid(h))
        s = b.se_fc1(h.mean(-1))
        h = h * torch.sigmoid(b.se_fc2(s * torch.sigmoid(s))).unsqueeze(-1)
        if b.stride == 2:
            x = F.max_pool1d(F.pad(x, (0, x.shape[-1] % 2)), 2)
        return h + F.pad(x, (0, 0, b.grow // 2, b.grow - b.grow // 2))

    def forward(self, x):
        x = self.conv(self.ours.stem, x)
        x = x * torch.sigmoid(x)
        for stage in self.ours.stages:
            for block in stage:
                x = self.block(block, x)
        return x.mean(-1)


class PlainResnet1d(nn.Module):
    """resnet1d with Conv1d, BatchNorm1d and MaxPool1d on (batch, channel, time)."""

    def __init__(self, ours):
        super().__init__()
        self.ours = ours

    @staticmethod
    def conv_bn(pair, x):
        conv, norm = pair
        x = F.conv1d(x, conv.weight.squeeze(2), None, conv.stride[1], conv.padding[1])
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=True)

    def forward(self, x):
        x = F.max_pool1d(torch.relu(self.conv_bn(self.ours.stem[0], x)), 3, 2, 1)
        for block in self.ours.blocks:
            h = self.conv_bn(block.conv2, torch.relu(self.conv_bn(block.conv1, x)))
            x = torch.relu(h + (x if isinstance(block.shortcut, nn.Identity) else self.conv_bn(block.shortcut, x)))
        return x.mean(-1)


def seconds(networks, optimizers, x, y) -> np.ndarray:
    """Fastest training step of each network, taken in turns."""
    times = []
    for _ in range(ROUNDS):
        row = []
        for network, optimizer in zip(networks, optimizers, strict=True):
            start = time.perf_counter()
            loss = F.binary_cross_entropy_with_logits(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            row.append(time.perf_counter() - start)
        times.append(row)
    return np.min(times[2:], 0)


def run() -> list[dict]:
    torch.manual_seed(0)
    x, y = torch.randn(BATCH, 12, 1000), torch.randint(0, 2, (BATCH, 5)).float()
    rows = []
    for name, plain in (("net1d", PlainNet1d), ("resnet1d", PlainResnet1d)):
        ours, twin = models.build(name, seed=1), plain(models.build(name, seed=1))
        torch.testing.assert_close(ours.train()(x), twin(x), rtol=1e-4, atol=1e-5)
        networks = [nn.Sequential(ours, nn.Linear(ours.dim, 5)), nn.Sequential(twin, nn.Linear(ours.dim, 5))]
        # ours: the optimiser of train.fit; theirs: the default
        optimizers = [
            torch.optim.AdamW(networks[0].parameters(), fused=True),
            torch.optim.AdamW(networks[1].parameters()),
        ]
        fast, slow = map(float, seconds(networks, optimizers, x, y) * 1000)
        rate = f"{BATCH / fast * 1000:,.0f} records/s on {torch.get_num_threads()} threads"
        note = f"batch {BATCH} x 12 x 1000, same numbers; {rate}"
        rows.append(
            dict(name=f"training step, {name} small", ours=fast, theirs=slow, ratio=slow / fast, unit="ms", note=note)
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
