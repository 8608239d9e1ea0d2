"""The studies: which runs, and what the paper (arXiv:1512.03385) published for them.

No TensorFlow import: the command line reads this.
"""

from __future__ import annotations

import dataclasses

from pipeline.config.settings import Config


@dataclasses.dataclass(frozen=True)
class Member:
    """One net of a study."""

    label: str  # as in the paper, such as "ResNet-34 A"
    settings: tuple[str, ...]  # `section.field=value` on top of the study's
    paper: dict[str, float] | None = None  # published "top1" and "top5" errors in percent


@dataclasses.dataclass(frozen=True)
class Study:
    """A set of runs and what is shown of them."""

    name: str
    title: str
    source: str  # table or figure of the paper
    preset: str  # where the configuration of every member starts from
    members: tuple[Member, ...]  # in the paper's order
    kind: str  # what the report shows: "curves", "table", "responses" or "gradients"
    protocol: str  # test protocol of the published errors
    caption: str  # what the paper found
    settings: tuple[str, ...] = ()  # `section.field=value` for all members


@dataclasses.dataclass(frozen=True)
class Result:
    """One finished member."""

    member: str  # its label
    seed: int
    folder: str  # the member's own
    config: Config
    history: list[dict[str, float]]  # a row an epoch, as in history.csv; errors from 0 to 1
    steps_per_epoch: int
    errors: dict[str, dict[str, float]]  # protocol -> key of METRICS -> the Evaluator's value
    parameters: int  # with the statistics of batch normalisation
    seconds: float  # of the Trainer; NaN for a training that was interrupted
    model: str  # folder of the pushed version
    transform_graph: str  # folder of Transform's analysis
    train_files: str  # glob pattern of the training examples, TFRecords
    commit: str  # of the code, "" when unknown


def _cifar(depth: int, residual: bool = True, top1: float | None = None) -> Member:
    settings = [f"model.depth={depth}"]
    if not residual:
        settings.append("model.residual=false")
    if depth == 110:
        # 0.1 is slightly too large to start with (section 4.2).
        settings.append("train.warmup_error=0.8")
    label = f"{'ResNet' if residual else 'plain'}-{depth}"
    return Member(label, tuple(settings), None if top1 is None else {"top1": top1})


def _imagenet(
    depth: int, shortcut: str, label: str, top1: float, top5: float | None = None
) -> Member:
    settings = [f"model.depth={depth}"]
    settings.append(f"model.shortcut={shortcut}" if shortcut else "model.residual=false")
    return Member(label, tuple(settings), {"top1": top1} | ({} if top5 is None else {"top5": top5}))


_PLAIN = tuple(_cifar(depth, residual=False) for depth in (20, 32, 44, 56))
# 110 layers: the mean of the paper's five runs (0.16 standard deviation), whose best is 6.43.
_TABLE_6 = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61, 1202: 7.93}
_RESNETS = {depth: _cifar(depth, top1=error) for depth, error in _TABLE_6.items()}
_ALL_PROTOCOLS = ("evaluate.protocols=center,ten_crop,multi_scale",)

_ALL = (
    Study(
        name="degradation",
        title="Plain nets degrade with depth, residual nets do not",
        source="Figures 1 and 6 (left, middle)",
        preset="cifar10",
        members=(*_PLAIN, *(_RESNETS[depth] for depth in (20, 32, 44, 56, 110))),
        kind="curves",
        protocol="center",
        caption=(
            "A deeper plain net has a higher training and test error; a deeper residual net a lower"
            " one."
        ),
    ),
    Study(
        name="degradation_imagenet",
        title="Plain nets degrade with depth, residual nets do not (ImageNet)",
        source="Figure 4 and Table 2",
        preset="imagenet_paper",
        members=(
            _imagenet(18, "", "plain-18", 27.94),
            _imagenet(34, "", "plain-34", 28.54),
            _imagenet(18, "A", "ResNet-18 A", 27.88),
            _imagenet(34, "A", "ResNet-34 A", 25.03),
        ),
        kind="curves",
        protocol="ten_crop",
        caption=(
            "34 layers are worse than 18 without shortcuts and better with them, at equal"
            " parameters."
        ),
        settings=_ALL_PROTOCOLS,
    ),
    Study(
        name="shortcuts",
        title="Identity and projection shortcuts",
        source="Table 3",
        preset="imagenet_paper",
        members=(
            _imagenet(34, "", "plain-34", 28.54, 10.02),
            _imagenet(34, "A", "ResNet-34 A", 25.03, 7.76),
            _imagenet(34, "B", "ResNet-34 B", 24.52, 7.46),
            _imagenet(34, "C", "ResNet-34 C", 24.19, 7.40),
            _imagenet(50, "B", "ResNet-50", 22.85, 6.71),
            _imagenet(101, "B", "ResNet-101", 21.75, 6.05),
            _imagenet(152, "B", "ResNet-152", 21.43, 5.71),
        ),
        kind="table",
        protocol="ten_crop",
        caption="A, B and C are all far better than the plain net and close to each other.",
        settings=_ALL_PROTOCOLS,
    ),
    Study(
        name="multi_scale",
        title="Single models, fully convolutional at five scales",
        source="Table 4",
        preset="imagenet_paper",
        members=(
            _imagenet(34, "B", "ResNet-34 B", 21.84, 5.71),
            _imagenet(34, "C", "ResNet-34 C", 21.53, 5.60),
            _imagenet(50, "B", "ResNet-50", 20.74, 5.25),
            _imagenet(101, "B", "ResNet-101", 19.87, 4.60),
            _imagenet(152, "B", "ResNet-152", 19.38, 4.49),
        ),
        kind="table",
        protocol="multi_scale",
        caption="Error falls with depth up to 152 layers.",
        settings=_ALL_PROTOCOLS,
    ),
    Study(
        name="depth",
        title="Depth of residual nets on CIFAR-10",
        source="Table 6",
        preset="cifar10",
        members=tuple(_RESNETS.values()),
        kind="table",
        protocol="center",
        caption="The test error falls with depth up to 110 layers; 1202 layers overfit.",
    ),
    Study(
        name="responses",
        title="Standard deviation of layer responses",
        source="Figure 7",
        preset="cifar10",
        members=(_PLAIN[0], *_PLAIN[2:], *(_RESNETS[depth] for depth in (20, 44, 56, 110))),
        kind="responses",
        protocol="center",
        caption=(
            "Residual nets respond less than plain ones, and deeper residual nets less in every"
            " layer."
        ),
    ),
    Study(
        name="gradients",
        title="Gradients of plain and residual nets with batch normalisation",
        source="Section 4.1 (there on ImageNet)",
        preset="cifar10",
        members=(_PLAIN[0], *_PLAIN[2:], *(_RESNETS[depth] for depth in (20, 44, 56))),
        kind="gradients",
        protocol="center",
        caption=(
            "Gradients of plain nets have healthy norms: vanishing is not what makes them degrade."
        ),
    ),
)

STUDIES: dict[str, Study] = {study.name: study for study in _ALL}
