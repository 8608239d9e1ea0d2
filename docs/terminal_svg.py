"""Terminal output as a picture: `FORCE_COLOR=1 make demo | python docs/terminal_svg.py
docs/demo.svg`.
"""

import io
import re
import sys

from rich.console import Console
from rich.text import Text

text = "\n".join(re.split(r"\r(?:\x1b\[K)?", line)[-1] for line in sys.stdin.read().split("\n"))
console = Console(record=True, width=132, file=io.StringIO(), force_terminal=True)
console.print(Text.from_ansi(text))
svg = console.export_svg(title="make demo")
# The picture is complete without fonts from elsewhere.
svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.S)
with open(sys.argv[1], "w") as file:
    file.write(svg)
