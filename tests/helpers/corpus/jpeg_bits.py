"""JPEGs that no writer of ours makes, bit by bit (ITU-T T.81): 12 bits, lossless, odd components."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

# Of one level a block: the mean alone is coded.
_STEP = 16


def twelve_bits(picture: np.ndarray) -> bytes:
    """Extended sequential, Huffman-coded, grey of 12 bits."""
    levels = picture.mean(2, keepdims=True) * 16 + 5
    return _blocks(levels, 12)


def two_components(picture: np.ndarray) -> bytes:
    """Grey and a second component, of which nobody knows the meaning."""
    return _blocks(picture[..., :2].astype(float), 8)


def scan_a_component(picture: np.ndarray) -> bytes:
    """Sequential, its components one behind the other."""
    return _blocks(picture.astype(float), 8, interleaved=False)


def _blocks(levels: np.ndarray, precision: int, interleaved: bool = True) -> bytes:
    """SOF1, of every block its mean: float [height, width, components]."""
    height, width, components = levels.shape
    tall, wide = -(-height // 8), -(-width // 8)
    padded = np.pad(levels, [(0, 8 * tall - height), (0, 8 * wide - width), (0, 0)], "edge")
    means = padded.reshape(tall, 8, wide, 8, components).mean((1, 3)) - 2 ** (precision - 1)
    coefficients = np.rint(means * 8 / _STEP).astype(int).reshape(-1, components)
    differences = np.diff(coefficients, axis=0, prepend=0)
    # The code of the end of a block is the one bit 0.
    bits = np.array([[_difference(value) + "0" for value in row] for row in differences], object)
    tables = (
        b"\xff\xdb\0\x43\0" + bytes([_STEP] * 64) + _huffman(0x00, 5, 16) + _huffman(0x10, 1, 1)
    )
    frame = _frame(0xC1, precision, levels.shape, 0)
    if interleaved:
        scans = _scan(range(components), 0, 63) + _entropy(bits.sum())
    else:
        scans = b"".join(
            _scan([one], 0, 63) + _entropy(bits[:, one].sum()) for one in range(components)
        )
    return b"\xff\xd8" + tables + frame + scans + b"\xff\xd9"


def lossless(picture: np.ndarray) -> bytes:
    """SOF3 with the first predictor: every sample is coded as the difference from its left
    neighbour.
    """
    samples = picture.astype(int)
    differences = np.diff(samples, axis=1, prepend=0)
    differences[1:, 0] = np.diff(samples[:, 0], axis=0)
    differences[0, 0] -= 128
    bits = "".join(map(_difference, differences.ravel()))
    components = picture.shape[2]
    head = _huffman(0x00, 5, 16) + _frame(0xC3, 8, picture.shape, 0)
    return b"\xff\xd8" + head + _scan(range(components), 1, 0) + _entropy(bits) + b"\xff\xd9"


def _huffman(number: int, length: int, values: int) -> bytes:
    """A table in which the values 0, 1, ... have codes of one length."""
    counts = bytes(values if size == length else 0 for size in range(1, 17))
    body = bytes([number]) + counts + bytes(range(values))
    return b"\xff\xc4" + (len(body) + 2).to_bytes(2, "big") + body


def _frame(marker: int, precision: int, shape: tuple[int, ...], table: int) -> bytes:
    height, width, components = shape
    sides = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    body = bytes([precision]) + sides + bytes([components])
    body += b"".join(bytes([number + 1, 0x11, table]) for number in range(components))
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def _scan(components: Sequence[int], first: int, last: int) -> bytes:
    body = bytes([len(components)]) + b"".join(bytes([number + 1, 0]) for number in components)
    body += bytes([first, last, 0])
    return b"\xff\xda" + (len(body) + 2).to_bytes(2, "big") + body


def _difference(value: int) -> str:
    """The category in five bits, and the bits that tell the value in it."""
    size = int(abs(value)).bit_length()
    rest = value if value > 0 else value + (1 << size) - 1
    return f"{size:05b}" + (f"{rest:0{size}b}" if size else "")


def _entropy(bits: str) -> bytes:
    """The bits, filled up with ones, with a zero behind every byte 0xFF."""
    bits += "1" * (-len(bits) % 8)
    return bytes(_bytes(bits)).replace(b"\xff", b"\xff\0")


def _bytes(bits: str) -> Iterator[int]:
    return (int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
