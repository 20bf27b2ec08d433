import sys

from pysft.cli import main

sys.exit(main())
