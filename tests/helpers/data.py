"""Makers of small inputs: images of every quirk, archives, class folders. NumPy, PIL and tarfile
only.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile

import numpy as np
from PIL import Image

DEVKIT = "ILSVRC2012_devkit_t12/data"


def pixels(seed: int, height: int = 48, width: int = 64, channels: int = 3) -> np.ndarray:
    """A smooth picture with some noise, uint8 [height, width, channels]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(float)
    phase, period = rng.uniform(0, 6, channels), rng.uniform(4, 20, (2, channels))
    waves = np.sin(x[..., None] / period[0] + phase) + np.cos(y[..., None] / period[1])
    picture = 127 + 55 * waves + rng.normal(0, 4, waves.shape)
    return picture.clip(0, 255).astype(np.uint8)


def jpeg(seed: int = 0, height: int = 48, width: int = 64, **options) -> bytes:
    """An RGB JPEG; `options` go to PIL (progressive=True, exif=...)."""
    return _save(Image.fromarray(pixels(seed, height, width)), "JPEG", **{"quality": 90, **options})


def grey(seed: int = 0, **options) -> bytes:
    return _save(Image.fromarray(pixels(seed, channels=1)[..., 0]), "JPEG", **options)


def png(seed: int = 0, mode: str = "RGB") -> bytes:
    """A PNG of mode RGB, RGBA, L, LA, P, 1 or I;16 (16 bit: 257 times the 8-bit values)."""
    if mode == "I;16":
        return _save(
            Image.fromarray(pixels(seed, channels=1)[..., 0].astype(np.uint16) * 257), "PNG"
        )
    return _save(Image.fromarray(pixels(seed)).convert(mode), "PNG")


def cmyk(seed: int = 0) -> bytes:
    """A CMYK JPEG as Adobe writes it, inverted, with its marker."""
    return _save(
        Image.fromarray(pixels(seed, channels=4), "CMYK"), "JPEG", quality=95, subsampling=0
    )


def cmyk_without_adobe(seed: int = 0) -> bytes:
    """A CMYK JPEG without Adobe's marker: values are not inverted."""
    data = cmyk(seed)
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def ycck(seed: int = 0) -> bytes:
    """The picture of `cmyk(seed)` stored as YCCK."""
    ink = pixels(seed, channels=4)  # C, M, Y, K; Adobe stores 255 - ink
    ycc = np.asarray(Image.fromarray(ink[..., :3]).convert("YCbCr"))  # of R = 255 - stored C = ink
    stored = np.concatenate([ycc, 255 - ink[..., 3:]], -1)
    data = bytearray(
        _save(Image.fromarray(255 - stored, "CMYK"), "JPEG", quality=95, subsampling=0)
    )
    data[data.index(b"Adobe") + 11] = 2  # the transform: YCCK
    return bytes(data)


def corrupt_exif(seed: int = 0) -> bytes:
    """A JPEG with an EXIF segment of nonsense."""
    data, exif = jpeg(seed), b"Exif\0\0MM\0*" + bytes(range(200, 256)) * 3
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


def rotated_exif(seed: int = 0) -> bytes:
    """A JPEG whose EXIF asks for a rotation by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(seed, exif=exif)


def truncated(seed: int = 0) -> bytes:
    data = jpeg(seed)
    return data[: len(data) * 2 // 3]


def truncated_png(seed: int = 0) -> bytes:
    data = png(seed)
    return data[: len(data) // 2]


def bomb(side: int = 65_000) -> bytes:
    """A tiny JPEG whose header promises side x side pixels."""
    data = bytearray(jpeg(0))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = side.to_bytes(2, "big") * 2
    return bytes(data)


def convertible() -> dict[str, bytes]:
    """Images that are not RGB or grey JPEGs but hold a picture."""
    kinds = {f"png_{mode}": png(7, mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")}
    return {
        **kinds,
        "cmyk": cmyk(7),
        "cmyk_plain": cmyk_without_adobe(7),
        "ycck": ycck(7),
        "gif": _gif(7),
    }


def plain() -> dict[str, bytes]:
    """JPEGs that pass byte for byte."""
    return {
        "rgb": jpeg(3),
        "progressive": jpeg(3, progressive=True),
        "grey": grey(3),
        "corrupt_exif": corrupt_exif(3),
        "rotated_exif": rotated_exif(3),
        "one_pixel": jpeg(3, 1, 1),
        "odd": jpeg(3, 7, 33),
    }


def bad() -> dict[str, bytes]:
    """Files that cannot be used."""
    return {
        "truncated": truncated(),
        "truncated_progressive": jpeg(0, progressive=True)[:700],
        "truncated_png": truncated_png(),
        "empty": b"",
        "text": b"<html>404 Not Found</html>",
        "header": jpeg(0)[:12],
        "bomb": bomb(),
    }


def tar_bytes(members: dict[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def ilsvrc(
    folder: str,
    train: dict[str, dict[str, bytes]],
    val: list[tuple[str, bytes]],
    devkit_order: list[str] | None = None,
    words: dict[str, str] | None = None,
) -> str:
    """Writes the three archives of ILSVRC2012.

    Args:
      train: wnid -> file name -> bytes.
      val: (wnid, bytes) of validation image 1, 2, ...
      devkit_order: wnids of the ids 1, 2, ...; the default is the sorted wnids rotated by one.
      words: wnid -> human label.
    """
    wnids = sorted(train)
    order = devkit_order or wnids[1:] + wnids[:1]
    os.makedirs(folder, exist_ok=True)
    tars = {f"{wnid}.tar": tar_bytes(images) for wnid, images in train.items()}
    _write(folder, "ILSVRC2012_img_train.tar", tar_bytes(tars))
    images = {f"ILSVRC2012_val_{i:08d}.JPEG": data for i, (_, data) in enumerate(val, 1)}
    _write(folder, "ILSVRC2012_img_val.tar", tar_bytes(images))
    truth = "".join(f"{order.index(wnid) + 1}\n" for wnid, _ in val).encode()
    names = words or {w: f"name of {w}" for w in order}
    kit = {
        f"{DEVKIT}/meta.mat": _meta(order, names),
        f"{DEVKIT}/ILSVRC2012_validation_ground_truth.txt": truth,
    }
    _write(folder, "ILSVRC2012_devkit_t12.tar.gz", gzip.compress(tar_bytes(kit)))
    return folder


def small_ilsvrc(folder: str, classes: int = 3, per_class: int = 8, val_per_class: int = 4) -> str:
    """Good images only: `classes` of them, each image with a seed of its own."""
    wnids = [f"n{1000 + 7 * i:08d}" for i in range(classes)]
    train = {
        w: {f"{w}_{i}.JPEG": jpeg(100 * c + i) for i in range(per_class)}
        for c, w in enumerate(wnids)
    }
    val = [(w, jpeg(9000 + 100 * c + i)) for i in range(val_per_class) for c, w in enumerate(wnids)]
    return ilsvrc(folder, train, val)


def class_folders(folder: str, splits: dict[str, dict[str, dict[str, bytes]]]) -> str:
    """Writes split/class/file; `splits` is split -> class -> file name -> bytes."""
    for split, classes in splits.items():
        for name, images in classes.items():
            os.makedirs(os.path.join(folder, split, name), exist_ok=True)
            for file, data in images.items():
                _write(os.path.join(folder, split, name), file, data)
    return folder


def _meta(order: list[str], words: dict[str, str]) -> bytes:
    from scipy.io import savemat

    leaves = [(i, w, words[w], 0) for i, w in enumerate(order, 1)]
    # An inner synset, as in the real kit: it is no class.
    rows = [*leaves, (len(order) + 1, "n99999999", "entity", len(order))]
    synsets = np.zeros(
        (len(rows), 1), [(n, object) for n in ("ILSVRC2012_ID", "WNID", "words", "num_children")]
    )
    for row, values in zip(synsets[:, 0], rows, strict=True):
        for name, value in zip(synsets.dtype.names, values, strict=True):
            row[name] = value
    out = io.BytesIO()
    savemat(out, {"synsets": synsets})
    return out.getvalue()


def _gif(seed: int) -> bytes:
    return _save(Image.fromarray(pixels(seed)).convert("P"), "GIF")


def _save(image: Image.Image, format: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def _write(folder: str, name: str, data: bytes) -> None:
    with open(os.path.join(folder, name), "wb") as stream:
        stream.write(data)
