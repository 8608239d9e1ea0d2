"""Run by a Python that has PyTorch: writes checkpoints with random weights, images and their
logits.

    python torch_networks.py FOLDER

FOLDER/NAME.pth and FOLDER/NAME.npz with "images", uint8 [n, H, W, 3], and "logits".
"""

import os
import sys

import numpy as np
import torch
import torchvision
from torch import nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two 3x3 convolutions; zeros are padded on both sides of the shortcut, as PyTorch's CIFAR nets
    do.
    """

    def __init__(self, into, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.changes = stride, into != out

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.changes:
            quarter = y.shape[1] // 4
            x = nn.functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, quarter, quarter)
            )
        return torch.relu(x + y)


class CifarNet(nn.Module):
    def __init__(self, blocks, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        stages, into = [], 16
        for out in (16, 32, 64):
            layers = [Block(into, out, 1 if out == 16 else 2)]
            layers += [Block(out, out, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*layers))
            into = out
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def main(folder):
    models = torchvision.models
    networks = {
        "resnet18": (models.resnet18(num_classes=10), 97),
        "resnet34": (models.resnet34(num_classes=10), 64),
        "resnet50": (models.resnet50(num_classes=10), 97),
        "cifar20": (CifarNet(3, 10), 32),
    }
    torch.manual_seed(0)
    for name, (network, size) in networks.items():
        network.eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.4, 1.0)
                nn.init.normal_(module.bias, 0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        path = os.path.join(folder, name)
        if name == "resnet18":  # the format before PyTorch 1.6
            torch.save(network.state_dict(), f"{path}.pth", _use_new_zipfile_serialization=False)
        elif name == "cifar20":
            wrapped = nn.DataParallel(network).state_dict()
            torch.save({"state_dict": wrapped, "best_prec1": 0.5}, f"{path}.pth")
        else:
            torch.save(network.state_dict(), f"{path}.pth")
        images = np.random.default_rng(0).integers(0, 256, [4, size, size + 16, 3], np.uint8)
        inputs = (images / 255 - np.array(MEAN)) / np.array(STD)
        with torch.no_grad():
            logits = network(torch.tensor(inputs.transpose(0, 3, 1, 2), dtype=torch.float32))
        np.savez(f"{path}.npz", images=images, logits=np.array(logits.tolist(), np.float32))


if __name__ == "__main__":
    main(sys.argv[1])
