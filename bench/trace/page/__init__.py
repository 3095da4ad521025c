"""A trace as one page that needs no network: page.html with page.css, page.js and the data inside.

The page's own policy forbids it to load anything. The data are JSON, packed by gzip.

Read next: page.js, then bench/trace/cases.py.
"""

import base64
import gzip
import json
from html import escape
from pathlib import Path
from string import Template

HERE = Path(__file__).parent


def page(versions: list[dict]) -> str:
    """versions: [{"title", "runs": [{"trace": bench.trace.document's, "results": [...]}, ...]}],
    the first the kernels as they are. A run has threads in an order of its own. Of results:
    {"name", "elements", "wrong", "shown": [[element, right value, value], ...]}."""
    packed = gzip.compress(json.dumps(versions, separators=(",", ":")).encode(), 9, mtime=0)
    return Template((HERE / "page.html").read_text()).substitute(
        title=escape(f"{versions[0]['runs'][0]['trace']['operation']}, thread by thread"),
        style=(HERE / "page.css").read_text(),
        script=(HERE / "page.js").read_text(),
        data=base64.b64encode(packed).decode(),
    )
