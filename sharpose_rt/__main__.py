"""`python -m sharpose_rt` is `sharpose-rt`."""

import sys

from sharpose_rt.cli import main

sys.exit(main())
