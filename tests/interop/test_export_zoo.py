"""Exports of every type of model, under every kind of removal, are the model that was studied.

Which form one takes, smaller tensors or zeros, is the family's business. Another number, a crash
and a refusal fail, but for types that no study can have (`test_zoo`).
"""

import pruned_zoo
import pytest
import zoo
from zoo import RIGHT

from headcount.models.families import ModelError

FAST = {  # with the form of an export without the middle layer
    "afmoe": "smaller",  # a dense layer, then experts, which are alike
    "falcon_h1": "zeros",  # a state space beside the attention of each layer still writes
    "gemma3n_text": "zeros",  # several streams, keys and values of earlier layers
    "laguna": "smaller",  # a number of heads for each layer, in a list
}


def forms(model_type, directory):
    """The form of each export, by what is removed; {} for a type that is refused."""
    try:
        source = pruned_zoo.save(model_type, directory / "source")
        exports = dict(pruned_zoo.exported(source, directory))
    except ModelError as refusal:
        assert model_type not in RIGHT, refusal
        return {}
    for name, one in exports.items():
        assert one.logits.passed, (name, one)
    return {name: one.form for name, one in exports.items()}


@pytest.mark.numerical
@pytest.mark.parametrize("model_type", FAST)
def test_one_of_each_kind_is_exported_as_it_was_studied(model_type, tmp_path):
    found = forms(model_type, tmp_path)
    assert found["heads and FFN of a layer"] == FAST[model_type]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted({*zoo.TYPES} - {*FAST, *zoo.NOT_BUILT}))
def test_is_exported_as_it_was_studied_or_refused(model_type, tmp_path):
    forms(model_type, tmp_path)
