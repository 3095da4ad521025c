"""How the report page looks: one style sheet for phone, desk, dark rooms and paper.

A verdict's colour never stands alone: its word stands beside it. Text keeps a contrast of at least
4.5 to 1 (WCAG 2.1, 1.4.3).

Read next: bench/paper/html_page.py.
"""

# Colour names -> (light, dark).
PAGE = {"ground": ("#ffffff", "#14171a"), "text": ("#1b1f23", "#e4e7ea"),
        "quiet": ("#545b63", "#a3abb3"), "line": ("#cfd5db", "#3a4148"),
        "head": ("#f3f5f7", "#1e2327"), "link": ("#0b57a4", "#7db8f2")}
# Verdict -> (text, ground), light and dark.
VERDICT_COLOURS = {
    "ok": (("#14602b", "#e6f5ea"), ("#86dca0", "#14301d")),
    "off": (("#a11420", "#fdeaea"), ("#ffa3a3", "#421a1c")),
    "typo": (("#6b2f9c", "#f4ebfb"), ("#d3b0f5", "#2f2040")),
    "cut short": (("#7f4a00", "#fdf1dc"), ("#f0bd6a", "#382a10")),
    "other recipe": (("#0d5573", "#e4f2f8"), ("#86cfee", "#12303d")),
    "not run": (("#545b63", "#f1f3f5"), ("#a3abb3", "#22272c")),
    "no value": (("#545b63", "#f1f3f5"), ("#a3abb3", "#22272c")),
    "convergence agrees": (("#14602b", "#e6f5ea"), ("#86dca0", "#14301d")),
    "convergence differs": (("#a11420", "#fdeaea"), ("#ffa3a3", "#421a1c")),
}


def verdict_class(verdict: str) -> str:
    """The verdict's class in the style sheet."""
    return "v-" + verdict.replace(" ", "-")


def variables(theme: int) -> str:
    """The theme's colours, 0 light and 1 dark, as custom properties."""
    page = "".join(f"--{name}:{pair[theme]};" for name, pair in PAGE.items())
    return page + "".join(f"--{verdict_class(v)}:{pairs[theme][0]};"
                          f"--{verdict_class(v)}-ground:{pairs[theme][1]};"
                          for v, pairs in VERDICT_COLOURS.items())


STYLE = f"""
:root{{color-scheme:light dark;{variables(0)}}}
@media screen and (prefers-color-scheme:dark){{:root{{{variables(1)}}}}}
""" + """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:80rem;padding:1rem;background:var(--ground);color:var(--text);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:break-word}
h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0}
h2{font-size:1.25rem;line-height:1.3;margin:0 0 .5rem}
p{margin:.5rem 0;max-width:48rem}
ul,ol{margin:.5rem 0;padding-left:1.4rem;max-width:60rem}
a{color:var(--link)}
section{border-top:1px solid var(--line);margin-top:2rem;padding-top:1.25rem}
small,.paper,.trained,caption,figcaption,.back,dl,details,.notes{font-size:.875rem}
small,.paper,.trained,caption,figcaption,dt{color:var(--quiet)}
small{font-weight:400}
code{font:.9em ui-monospace,monospace;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:.75rem 0}
dd{margin:0;min-width:0}
summary{cursor:pointer;padding:.25rem 0}
.legend ul{list-style:none;padding:0}
.legend li{margin:.2rem 0}
.scroll{overflow-x:auto;margin:.75rem 0}
.scroll:focus-visible,a:focus-visible,summary:focus-visible{outline:2px solid var(--link)}
table{border-collapse:separate;border-spacing:0;font-variant-numeric:tabular-nums}
caption{text-align:left;padding-bottom:.35rem}
caption span{position:sticky;left:0;display:inline-block;max-width:calc(100vw - 2rem)}
th,td{border-bottom:1px solid var(--line);padding:.3rem .5rem;text-align:left;vertical-align:top}
thead th,thead td{background:var(--head);vertical-align:bottom}
th[scope=row]{position:sticky;left:0;background:var(--ground);font-weight:500;
min-width:5rem;max-width:16rem}
.summary td{text-align:right}
.summary th[scope=row]{max-width:30rem;min-width:9rem}
.summary th[scope=col]:nth-child(n+2){text-align:right}
tfoot th,tfoot td{font-weight:600}
.cell{border-left:.25rem solid;padding:.1rem .4rem;min-width:12rem}
.cell+.cell{margin-top:.35rem}
.ours,.trained{display:block}
.paper{margin-right:.5rem;white-space:nowrap}
.ours{color:var(--text);font-weight:600;white-space:nowrap}
.ours small{white-space:normal}
.verdict{font-size:.875rem;white-space:nowrap;font-weight:500}
.legend .verdict,.summary .verdict{border-radius:.25rem;padding:.05rem .35rem}
.summary .verdict{display:inline-block;white-space:normal;text-align:left}
.partial{font-style:italic;font-weight:400}
figure{margin:1rem 0}
img{display:block;max-width:100%;background:#fff}
@media(max-width:40rem){body{padding:.75rem}dl{grid-template-columns:1fr;gap:0}
dd{margin-bottom:.4rem}th[scope=row]{max-width:38vw}
img{max-width:none;width:40rem}}
@media print{@page{margin:12mm}html{font-size:9pt}body{padding:0;max-width:none}
.scroll{overflow:visible}.back{display:none}a{color:inherit;text-decoration:none}
table{font-size:.9rem}.cell{min-width:0;padding:0 .25rem}th,td{padding:.15rem .25rem}
th[scope=row],caption span{position:static;max-width:none}
h2,h2+p,.bound,caption,thead{break-after:avoid}tr,p,figure{break-inside:avoid}
.cell,.verdict{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
""" + "".join(
    f".{verdict_class(v)}{{color:var(--{verdict_class(v)});"
    f"background:var(--{verdict_class(v)}-ground)}}" for v in VERDICT_COLOURS)
