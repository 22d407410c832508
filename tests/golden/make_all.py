"""Makes all golden data again: python tests/golden/make_all.py"""

import subprocess
import sys
from pathlib import Path

here = Path(__file__).parent
for script in sorted(here.glob("*/make.py")):
    print(script.parent.name)
    subprocess.run([sys.executable, "-W", "ignore", str(script)], check=True)
