"""How a run's report looks: its style sheet, its frame, and the words and numbers in it as HTML."""

import html
import math
import re

INK = "#0a0b0c"  # stands for the page's text colour, which pictures take from CSS
FRAME = "#0d0e0f"


def text(value: object) -> str:
    """Anything as HTML that means nothing but itself."""
    return html.escape(str(value), quote=True)


def name(name: str) -> str:
    """A dotted or slashed name as HTML that may break after these signs, and not in the middle of a word."""
    return re.sub(r"(?<=\w)([./_]+)(?=\w)", r"\1<wbr>", text(name))


def number(value: float) -> str:
    """With four digits, or as a whole number."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}".replace("-", "−")
    return (f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}").replace("-", "−")


def value(value: float) -> str:
    """A number as HTML, marked when it is not finite."""
    return number(value) if math.isfinite(value) else f'<b class="bad">{number(value)}</b>'


STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #ffffff; --ink: #1d2126; --soft: #626a73; --line: #dfe2e6;
  --accent: #2f80ed; --good: #17804f; --warn: #9a6200; --bad: #c42b3a; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1c2024; --ink: #e4e7ea; --soft: #99a1a9;
  --line: #343a41; --accent: #6aa7f7; --good: #4cc38a; --warn: #e0a544; --bad: #ff7a85; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 32px 24px 64px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header { margin-bottom: 24px; }
h1 { margin: 0; font-size: 30px; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; font-size: 18px; }
section { margin-top: 32px; }
p { margin: 8px 0; }
.preset { margin: 0 0 2px; color: var(--soft); font-size: 16px; }
.status { font-variant-numeric: tabular-nums; }
.badge { display: inline-block; margin-right: 8px; padding: 1px 10px; border-radius: 99px; border: 1px solid;
  color: var(--soft); font-size: 13px; font-weight: 600; }
.badge.running { color: var(--accent); } .badge.finished { color: var(--good); }
.badge.stopped { color: var(--warn); } .badge.non-finite, .badge.failed { color: var(--bad); }
progress { width: 100%; height: 6px; border: 0; border-radius: 3px; appearance: none; background: var(--line);
  overflow: hidden; }
progress::-webkit-progress-bar { background: var(--line); }
progress::-webkit-progress-value { background: var(--accent); }
progress::-moz-progress-bar { background: var(--accent); }
.warning, .bad { color: var(--bad); }
.note, .hint { color: var(--soft); font-size: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(185px, 1fr)); gap: 12px; margin: 0; }
.tiles div { padding: 12px 16px; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
.tiles dt { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.tiles dd { margin: 0; font-size: 22px; font-weight: 600; line-height: 1.4; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.tiles small { display: block; color: var(--soft); line-height: 1.4; font-variant-numeric: tabular-nums; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; image-rendering: pixelated; }
.facts { color: var(--soft); overflow-wrap: anywhere; } .facts b { color: var(--ink); margin-right: 6px; }
.beside { display: flex; flex-wrap: wrap; gap: 16px 24px; } .beside figure { flex: 0 1 auto; min-width: 0; }
.latest figcaption { margin-top: 4px; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; }
.small label { display: block; cursor: zoom-in; }
.small img { width: 100%; image-rendering: auto; }
.small input { position: absolute; opacity: 0; width: 1px; height: 1px; }
.small input:focus-visible + img { outline: 3px solid var(--accent); outline-offset: 2px; }
.small:has(input:checked) { grid-column: 1 / -1; }
.small:has(input:checked) label { cursor: zoom-out; }
.small:has(input:checked) img { width: auto; min-width: min(100%, 480px); image-rendering: pixelated; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 370px), 1fr)); gap: 16px; }
.panel { padding: 12px 12px 6px; border: 1px solid var(--line); border-radius: 10px; background: var(--card);
  min-width: 0; }
.panel figcaption { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 0 4px 6px; overflow-wrap: anywhere; }
.panel figcaption i { display: inline-block; width: 14px; height: 3px; margin-right: 6px; vertical-align: middle;
  border-radius: 2px; }
.panel figcaption b { color: var(--ink); } .panel figcaption b.bad { color: var(--bad); }
.panel em { margin-left: auto; }
.panel svg { display: block; width: 100%; height: auto; color: var(--soft); font-family: inherit; }
summary { cursor: pointer; margin-bottom: 8px; } summary h2 { display: inline; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 16px 4px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
th { width: 34%; font-weight: 400; color: var(--soft); overflow-wrap: normal; }
.numbers th:not(:first-child) { width: auto; } .numbers th:not(:first-child), .numbers td { text-align: right; }
.numbers td { white-space: nowrap; }
.commands { margin: 0; } .commands dt { color: var(--soft); font-size: 14px; } .commands dd { margin: 4px 0 12px; }
pre { margin: 0; padding: 10px 14px; border: 1px solid var(--line); border-radius: 8px; background: var(--card);
  overflow-x: auto; white-space: pre-wrap; font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre span { white-space: pre; }
footer { margin-top: 40px; color: var(--soft); font-size: 13px; }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<footer>Written by jaxgen on {now}.</footer>
</body>
</html>
"""
