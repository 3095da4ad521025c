"""`lives`: runs that end as they are told to, for the tests of this folder.

Read next: tests/helpers/lives.py.
"""

import pytest

from helpers.lives import Lives


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    try:
        process = Lives(tmp_path_factory.mktemp("lives"))
    except RuntimeError as error:
        pytest.skip(f"kills: {error}")
    with process:
        yield process
