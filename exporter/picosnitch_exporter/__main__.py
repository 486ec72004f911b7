"""`python -m picosnitch_exporter` is the command."""

import sys

from picosnitch_exporter.entry import main

sys.exit(main())
