"""The shape of the graph, for schedulers without TFX; `pipeline.pipeline` builds it."""

from __future__ import annotations

from pipeline.config.settings import Config


def nodes(config: Config) -> dict[str, tuple[str, ...]]:
    """Nodes with those that each waits for, in an order that can be executed."""
    infer = config.data.schema == "infer"
    statistics = {"StatisticsGen": ("ExampleGen",) if infer else ("ExampleGen", "SchemaGen")}
    schema: dict[str, tuple[str, ...]] = {"SchemaGen": ("StatisticsGen",) if infer else ()}
    warm, tuned = config.train.warm_start, config.tune.enabled
    validated = config.serve.validator != "none"
    learning = ("ExampleGen", "Transform", *(["WarmStart"] if warm else []))
    if config.transform.shorter_side:
        learning = learning[1:]
    return {
        "ExampleGen": (),
        **(statistics | schema if infer else schema | statistics),
        "ExampleValidator": ("SchemaGen", "StatisticsGen"),
        "Transform": ("ExampleGen", "ExampleValidator", "SchemaGen"),
        **({"WarmStart": ("Transform",)} if warm else {}),
        **({"Tuner": learning} if tuned else {}),
        "Trainer": (*learning, *(["Tuner"] if tuned else [])),
        "Baseline": ("Trainer",),
        "Evaluator": (
            "ExampleGen",
            "Trainer",
            *(["Baseline"] if config.evaluate.max_top1_increase < 1 else []),
        ),
        **({"ServingValidator": ("Evaluator", "ExampleGen", "Trainer")} if validated else {}),
        "Pusher": ("Evaluator", "Trainer", *(["ServingValidator"] if validated else [])),
        "Report": (
            "Baseline",
            "Evaluator",
            "ExampleGen",
            "ExampleValidator",
            "Pusher",
            "StatisticsGen",
            "Trainer",
            *(["ServingValidator"] if validated else []),
        ),
    }
