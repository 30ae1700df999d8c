"""The optional libraries, imported where they are used."""

from importlib import import_module
from types import ModuleType

_NAMES = {"sklearn": "scikit-learn", "PIL": "pillow"}  # of those installed by another name


def require(module: str, purpose: str, extra: str) -> ModuleType:
    """Return the module; ImportError, naming the extra where it is not there, or what fails where it is."""
    library = module.partition(".")[0]
    try:
        return import_module(module)
    except Exception as error:  # what is there but does not fit something else raises anything
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            reason = f": pip install 'jaxnet[{extra}]'"
        else:
            reason = f", which is there but fails: {type(error).__name__}: {' '.join(str(error).split())}"
        raise ImportError(f"{purpose} {_NAMES.get(library, library)}{reason}") from None
