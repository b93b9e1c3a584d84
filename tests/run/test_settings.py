"""The dataclasses of settings have the keys of conf/, whose lists in the commands say the same."""

from dataclasses import fields

from ssl4seg.commands.conf import EVALUATED, own_keys
from ssl4seg.commands.evaluation import SHOWN
from ssl4seg.run.settings import EvalSettings, ModelSettings, PredictSettings


def names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def test_a_command_reads_the_keys_of_the_run_that_may_be_typed_and_its_own() -> None:
    assert names(EvalSettings) == {*EVALUATED, *own_keys("eval")} - {"trust"}
    assert names(PredictSettings) == {*EVALUATED, *own_keys("predict")} - {"trust", "metrics"}
    assert names(ModelSettings) == {*EVALUATED, "device", "num_threads"} - {"metrics"}


def test_scores_depend_on_all_keys_of_an_evaluation_but_those_of_the_machine_and_of_places() -> None:
    without = {"run", "split", "output", "device", "num_threads", "eval_batch_size", "resident_gib"}
    assert set(SHOWN) == names(EvalSettings) - without
