"""The networks' door: `resnet` for ImageNet, `cifar_resnet` for small images, `build` from
settings.
"""

from models.network.architecture import build, cifar_resnet, resnet

__all__ = ["build", "cifar_resnet", "resnet"]
