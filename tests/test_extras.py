import sys

import pytest

from jaxnet import _extras


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise AttributeError('of another version')", "AttributeError: of another version"),
        ("raise ImportError('libz.so: no such\\nfile')", "ImportError: libz.so: no such file"),
    ],
)
def test_a_library_that_is_there_but_fails_says_so(code, message, tmp_path, monkeypatch):
    (tmp_path / "a_library").mkdir()
    (tmp_path / "a_library" / "__init__.py").write_text("")
    (tmp_path / "a_library" / "part.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError) as error:
        _extras.require("a_library.part", "this needs", "data")
    assert str(error.value) == f"this needs a_library, which is there but fails: {message}"
    del sys.modules["a_library"]


@pytest.mark.parametrize("module", ["no_such_library", "no_such_library.part"])
def test_a_library_that_is_not_there_names_the_extra(module):
    with pytest.raises(ImportError) as error:
        _extras.require(module, "this needs", "checkpoints")
    assert str(error.value) == "this needs no_such_library: pip install 'jaxnet[checkpoints]'"
