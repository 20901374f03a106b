from __future__ import annotations

import inspect
import pickle

import pytest

from ravan_edge import errors

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.RavanError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_a_process_border_whole(kind: type[errors.RavanError]) -> None:
    error = kind("found 3, expected 4", where="mails.csv", hint="mend it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.message, again.where, again.hint) == (error.message, error.where, error.hint)
    assert str(again) == str(error)


def test_a_message_says_where_what_and_how_to_mend_it() -> None:
    error = errors.DataError("no column 'text'", where="mails.csv", hint="name it")
    assert str(error) == "mails.csv: no column 'text'. To mend it: name it"
    assert str(errors.DataError("no rows")) == "no rows"


def test_kinds_are_caught_by_their_room() -> None:
    assert issubclass(errors.TensorFileError, errors.ArtifactError)
    assert issubclass(errors.ModelError, errors.ArtifactError)
    assert not issubclass(errors.DataError, errors.ArtifactError)
