"""`python -m jaxnet` is `jaxnet`."""

import sys

from jaxnet.cli import main

sys.exit(main())
