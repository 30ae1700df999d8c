"""The optional libraries, imported where they are used."""

from importlib import import_module
from types import ModuleType

_NAMES = {"sklearn": "scikit-learn", "PIL": "pillow"}  # of those installed by another name


def require(module: str, purpose: str, extra: str) -> ModuleType:
    """Return the module; ImportError, naming the extra where it is not there, or what fails where it is."""
    library = module.partition(".")[0]
    what = f"{purpose} {_NAMES.get(library, library)}"
    try:
        return import_module(module)
    except Exception as error:  # importing runs the library: one that does not fit another raises anything
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise ImportError(f"{what}: pip install 'jaxnet[{extra}]'") from None
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ImportError(f"{what}, which is there but fails: {reason}") from error
