import sys

from pysft.cli.main import main

sys.exit(main())
