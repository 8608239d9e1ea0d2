"""torchvision's ResNets and the CIFAR ones of PyTorch in NumPy, channels first, slow and plain."""

import numpy as np

EPSILON = 1e-5


def state(
    blocks, bottleneck=False, shortcut="B", classes=5, branch="downsample", head="fc", seed=0
):
    """A state dict of random numbers, in PyTorch's order; three stages are a CIFAR network's."""
    rng = np.random.default_rng(seed)
    cifar = len(blocks) == 3
    found = {}

    def conv(name, out, into, kernel):
        found[f"{name}.weight"] = rng.normal(
            0, (2 / (into * kernel**2)) ** 0.5, [out, into, kernel, kernel]
        )

    def norm(name, size):
        found[f"{name}.weight"] = rng.uniform(0.5, 1.2, size)
        found[f"{name}.bias"] = rng.normal(0, 0.2, size)
        found[f"{name}.running_mean"] = rng.normal(0, 0.2, size)
        found[f"{name}.running_var"] = rng.uniform(0.5, 1.5, size)

    into = 16 if cifar else 64
    conv("conv1", into, 3, 3 if cifar else 7)
    norm("bn1", into)
    for stage, count in enumerate(blocks, start=1):
        width = (16 if cifar else 64) * 2 ** (stage - 1)
        out = width * 4 if bottleneck else width
        for block in range(count):
            name = f"layer{stage}.{block}"
            kernels = ((width, 1), (width, 3), (out, 1)) if bottleneck else ((width, 3), (width, 3))
            sizes = into
            for number, (size, kernel) in enumerate(kernels, start=1):
                conv(f"{name}.conv{number}", size, sizes, kernel)
                norm(f"{name}.bn{number}", size)
                sizes = size
            if shortcut == "C" or (shortcut == "B" and into != out):
                conv(f"{name}.{branch}.0", out, into, 1)
                norm(f"{name}.{branch}.1", out)
            into = out
    found[f"{head}.weight"] = rng.normal(0, 0.1, [classes, into])
    found[f"{head}.bias"] = rng.normal(0, 0.1, classes)
    return {name: value.astype(np.float32) for name, value in found.items()}


def logits(state, pixels, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """Of images [n, H, W, 3], RGB of 0..255."""
    state = {name: np.asarray(value, np.float64) for name, value in state.items()}
    x = ((pixels / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    cifar = "layer4.0.conv1.weight" not in state
    x = np.maximum(_norm(state, "bn1", _conv(state, "conv1", x, 1 if cifar else 2)), 0)
    if not cifar:
        x = _windows(
            np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf), 3, 2
        ).max((4, 5))
    for stage in (1, 2, 3) if cifar else (1, 2, 3, 4):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in state:
            x = _block(state, f"layer{stage}.{block}", x, 2 if stage > 1 and block == 0 else 1)
            block += 1
    head = "fc" if "fc.weight" in state else "linear"
    return x.mean((2, 3)) @ state[f"{head}.weight"].T + state[f"{head}.bias"]


def _block(state, name, x, stride):
    bottleneck = f"{name}.conv3.weight" in state
    strides = (1, stride, 1) if bottleneck else (stride, 1)
    y = x
    for number, step in enumerate(strides, start=1):
        y = _norm(state, f"{name}.bn{number}", _conv(state, f"{name}.conv{number}", y, step))
        if number < len(strides):
            y = np.maximum(y, 0)
    for branch in ("downsample", "shortcut"):
        if f"{name}.{branch}.0.weight" in state:
            x = _norm(state, f"{name}.{branch}.1", _conv(state, f"{name}.{branch}.0", x, stride))
    if x.shape != y.shape:
        quarter = y.shape[1] // 4
        x = np.pad(x[:, :, ::stride, ::stride], [(0, 0), (quarter, quarter), (0, 0), (0, 0)])
    return np.maximum(x + y, 0)


def _conv(state, name, x, stride):
    kernel = state[f"{name}.weight"]
    pad = kernel.shape[-1] // 2
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    windows = _windows(x, kernel.shape[-1], stride)
    return np.tensordot(windows, kernel, [(1, 4, 5), (1, 2, 3)]).transpose(0, 3, 1, 2)


def _windows(x, size, stride):
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[
        :, :, ::stride, ::stride
    ]


def _norm(state, name, x):
    scale, shift, mean, variance = (
        state[f"{name}.{part}"][:, None, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + EPSILON) * scale + shift
