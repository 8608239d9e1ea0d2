"""Client of TensorFlow Serving and of `serving.server`.

    python -m serving.client cat.jpg photos/ https://example.org/dog.png

The standard library is all it needs: this folder may be copied to any machine with Python 3.10 or
newer, and run there as `python -m client`. --grpc needs this project's environment
(`serving.client.grpc_client`).
"""

from .api import ClientError, ImageError, Label
from .images import read_image
from .rest import DEFAULT_MODEL, DEFAULT_URL, Client

__all__ = [
    "DEFAULT_MODEL",
    "DEFAULT_URL",
    "Client",
    "ClientError",
    "ImageError",
    "Label",
    "read_image",
]
