"""All files of a production server."""

from __future__ import annotations

from serving.deploy import kubernetes, tensorflow_serving


def files(deployment: tensorflow_serving.Deployment, command: str) -> dict[str, str]:
    """The texts of all files by their path.

    Args:
      command: the line that writes them, for their first line.
    """
    texts = {
        f"tensorflow_serving/{tensorflow_serving.MODELS}": tensorflow_serving.models_config(
            deployment
        ),
        f"tensorflow_serving/{tensorflow_serving.BATCHING}": tensorflow_serving.batching_parameters(
            deployment
        ),
        f"tensorflow_serving/{tensorflow_serving.MONITORING}": tensorflow_serving.monitoring_config(
            deployment
        ),
        "tensorflow_serving/compose.yaml": tensorflow_serving.compose(deployment),
        "kubernetes/tensorflow-serving.yaml": kubernetes.objects(deployment),
        "kubernetes/kserve.yaml": kubernetes.inference_service(deployment),
    }
    return {path: f"# Written by: {command}\n{text}" for path, text in texts.items()}
