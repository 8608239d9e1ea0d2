"""KServe's ModelServer on the same model: `PYTHON benchmarks/kserve_server.py MODEL PORT`.

For `benchmarks.serving`; runs in an environment with kserve and tensorflow, without this project.
"""

import base64
import sys

import kserve
import tensorflow as tf


class Images(kserve.Model):
    """The `serving_default` signature behind /v1/models/resnet:predict."""

    def __init__(self, path):
        super().__init__("resnet")
        self._model = tf.saved_model.load(path)
        self._call = self._model.signatures["serving_default"]
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        images = [base64.b64decode(instance["b64"]) for instance in payload["instances"]]
        return {
            "predictions": (
                self._call(image_bytes=tf.constant(images))["probabilities"].numpy().tolist()
            )
        }


if __name__ == "__main__":
    path, port = sys.argv[1:]
    model = Images(path)
    kserve.ModelServer(http_port=int(port), enable_grpc=False, workers=1).start([model])
