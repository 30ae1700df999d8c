"""`python -m jaxnet` is `jaxnet`."""

from jaxnet.cli import entry

entry()
