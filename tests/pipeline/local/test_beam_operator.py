"""How Beam components get their pipeline."""

import copy
import pickle

import pyarrow as pa
from apache_beam import coders
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from tfx.dsl.components.base import base_beam_executor
from tfx.orchestration.portable import data_types
from tfx.proto.orchestration import executable_spec_pb2

from pipeline.config import beam_arguments
from pipeline.config.settings import Beam
from pipeline.local import beam_operator

ARGUMENTS = ["--runner=FnApiRunner", "--direct_num_workers=3"]


def test_a_view_is_built_once_and_says_what_beams_own_says():
    ours, theirs = beam_operator.Options(ARGUMENTS), PipelineOptions(ARGUMENTS)
    view = ours.view_as(DirectOptions)
    assert ours.view_as(DirectOptions) is view and theirs.view_as(DirectOptions) is not view
    assert view.direct_num_workers == theirs.view_as(DirectOptions).direct_num_workers == 3
    assert ours.get_all_options() == theirs.get_all_options()


def test_views_share_what_is_set_and_so_do_copies_among_themselves():
    options = beam_operator.Options(ARGUMENTS)
    options.view_as(StandardOptions).streaming = True
    assert options.view_as(DirectOptions).view_as(StandardOptions).streaming
    for other in (copy.deepcopy(options), pickle.loads(pickle.dumps(options))):
        assert other.view_as(StandardOptions).streaming
        other.view_as(DirectOptions).direct_num_workers = 5
        assert other.view_as(DirectOptions).direct_num_workers == 5
    assert options.view_as(DirectOptions).direct_num_workers == 3


def test_batches_are_coded_as_tfdv_does_and_not_to_tell_their_size():
    batch = pa.record_batch({"image": [[b"a" * 1000], [b"b" * 1000]]})
    beam_operator.pipeline(ARGUMENTS)
    coder = coders.registry.get_coder(pa.RecordBatch)
    assert isinstance(coder, beam_operator.RecordBatchCoder)
    assert coder.decode(coder.encode(batch)).equals(batch)
    assert coder.get_impl().decode(coder.get_impl().encode(batch)).equals(batch)
    assert coder.get_impl().estimate_size(batch) == batch.nbytes != len(coder.encode(batch))


class Recorder(base_beam_executor.BaseBeamExecutor):
    """Runs a Beam job on the pipeline that it is given."""

    found: list = []

    def Do(self, input_dict, output_dict, exec_properties):
        with self._make_beam_pipeline() as pipeline:
            self.found.append(pipeline.options)


def test_a_beam_component_gets_such_options(tmp_path):
    spec = executable_spec_pb2.BeamExecutableSpec()
    spec.python_executor_spec.class_path = f"{__name__}.Recorder"
    for argument in beam_arguments.arguments(Beam(workers=2)):
        spec.beam_pipeline_args_placeholders.add().value.string_value = argument
    info = data_types.ExecutionInfo(
        execution_id=1,
        input_dict={},
        output_dict={},
        exec_properties={},
        execution_output_uri=str(tmp_path / "output"),
        tmp_dir=str(tmp_path / "tmp"),
    )
    beam_operator.Operator(spec).run_executor(info)
    assert isinstance(Recorder.found[0], beam_operator.Options)
    assert Recorder.found[0].view_as(DirectOptions).direct_num_workers == 2
