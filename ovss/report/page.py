"""A page of HTML that stands alone: no scripts, no network, light and dark, phone and desktop."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

from PIL import Image

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --faint: #5f6670; --line: #dfe2e6;
  --page: #ffffff; --tint: #f4f5f7; --bar: #2f6fde; --less: #c4453a; --heat: 47, 111, 222; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7ea; --faint: #9aa1ac; --line: #363a41;
  --page: #16181c; --tint: #212429; --bar: #6a9cf4; --less: #ea7b70; --heat: 106, 156, 244; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 40px 0 8px; }
h3 { font-size: 1rem; margin: 20px 0 6px; }
h2, h3, p { overflow-wrap: anywhere; }
p { margin: 6px 0; max-width: 75ch; } .faint { color: var(--faint); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.facts { display: flex; flex-wrap: wrap; gap: 8px; margin: 14px 0; }
.facts div { background: var(--tint); border-radius: 8px; padding: 8px 14px; min-width: 0; }
.facts span { display: block; color: var(--faint); font-size: .8rem; }
.facts b { font-size: 1.05rem; overflow-wrap: anywhere; }
.columns { columns: 2 400px; column-gap: 40px; }
.bars { display: grid; grid-template-columns: minmax(70px, 34%) 1fr 52px; gap: 0 10px;
  align-items: center; break-inside: avoid; font-size: .92rem; min-height: 26px; }
.bars > span:first-child { overflow-wrap: anywhere; line-height: 1.2; }
.track { background: var(--tint); border-radius: 3px; height: 14px; position: relative; }
.track i { position: absolute; display: block; height: 14px; border-radius: 3px;
  background: var(--bar); } .track i.less { background: var(--less); }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } th { font-weight: 600; } td { overflow-wrap: break-word; }
table.matrix { font-size: .75rem; } table.matrix td { text-align: center; padding: 3px;
  min-width: 30px; border: 1px solid var(--line); } table.matrix th { padding: 3px 6px; border: 0;
  white-space: nowrap; } table.matrix thead th { height: 9em; vertical-align: bottom; }
table.matrix thead span { writing-mode: vertical-rl; transform: rotate(180deg); }
.photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr));
  gap: 16px; } figure { margin: 0; background: var(--tint); border-radius: 8px; padding: 10px; }
figure.wide { grid-column: 1 / -1; }
figure .row { display: flex; gap: 6px; } figure .row div { flex: 1 1 0; min-width: 0; }
figure img { width: 100%; display: block; border-radius: 4px; }
figure small { color: var(--faint); display: block; line-height: 1.25; overflow-wrap: anywhere; }
figcaption { font-size: .9rem; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 12px; font-size: .82rem; margin-top: 4px; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 2px;
  margin-right: 5px; border: 1px solid var(--line); }
pre { background: var(--tint); border-radius: 8px; padding: 12px; overflow-x: auto;
  font-size: .85rem; white-space: pre-wrap; overflow-wrap: anywhere; margin: 6px 0; }
th.number { white-space: normal; }
@media (max-width: 480px) { body { font-size: 15px; } main { padding: 16px 12px 48px; }
  table:not(.matrix) { font-size: .84rem; } table:not(.matrix) :is(th, td) { padding-right: 8px; } }
"""

# Nothing may be fetched, whatever a class or file is called.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page of parts that are HTML already."""
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<title>{text(title)}</title><link rel="icon" href="data:,">\n'
        f"<style>{_STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def text(value: object) -> str:
    """Anything as text of a page: what HTML would take for markup is escaped."""
    return html.escape(str(value), quote=True)


def section(title: str, *parts: str) -> str:
    """A heading and what is below it; nothing where there is nothing."""
    content = "\n".join(part for part in parts if part)
    return f"<section><h2>{text(title)}</h2>\n{content}\n</section>" if content else ""


def note(value: str) -> str:
    """A paragraph in a fainter colour."""
    return f'<p class="faint">{text(value)}</p>'


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """Names and values beside each other."""
    return (
        '<div class="facts">'
        + "".join(f"<div><span>{text(n)}</span><b>{text(v)}</b></div>" for n, v in pairs)
        + "</div>"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 0) -> str:
    """A table; its last `numbers` columns are aligned to the right."""

    def cells(row: Sequence[object], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if i >= len(row) - numbers else ''}>"
            # Folders have long names, which only break where they may.
            f"{text(value).replace('_', '_<wbr>')}</{tag}>"
            for i, value in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{cells(header, "th")}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def bars(rows: Iterable[tuple[str, float, str]], columns: bool = False) -> str:
    """A bar a row: name, length in -1..1 and what to write at its end.

    Negative lengths grow to the left of the middle, in another colour.
    """
    listed = list(rows)
    signed = any(share < 0 for _, share, _ in listed)
    drawn = []
    for name, share, written in listed:
        length = min(abs(share), 1) * (50 if signed else 100)
        left = 50 - length if share < 0 else 50 if signed else 0
        kind = ' class="less"' if share < 0 else ""
        drawn.append(
            f'<div class="bars"><span>{text(name)}</span><span class="track"><i{kind} '
            f'style="left:{left:.2f}%;width:{length:.2f}%"></i></span>'
            f'<span class="number">{text(written)}</span></div>'
        )
    return f"<div{' class=columns' if columns else ''}>" + "\n".join(drawn) + "</div>"


def matrix(names: Sequence[str], shares: Sequence[Sequence[float]]) -> str:
    """A square table of shares in 0..1, rows true and columns predicted, darker for more."""
    header = "".join(f"<th><span>{text(name)}</span></th>" for name in names)
    rows = []
    for name, row in zip(names, shares, strict=True):
        cells = "".join(
            f'<td style="background:rgba(var(--heat),{0.75 * share:.2f})">'
            f"{f'{100 * share:.0f}' if share >= 0.005 else ''}</td>"
            for share in row
        )
        rows.append(f"<tr><th>{text(name)}</th>{cells}</tr>")
    return (
        f'<div class="scroll"><table class="matrix"><thead><tr><th></th>{header}</tr></thead>\n'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def figure(
    pictures: Sequence[tuple[str, Image.Image]],
    caption: str,
    legend: Sequence[tuple[str, Sequence[int]]] = (),
    wide: bool = False,
) -> str:
    """Pictures in a row with what each is, a caption, and swatches with names below."""
    shown = "".join(
        f'<div><img alt="{text(what)}" src="{data_uri(image)}"><small>{text(what)}</small></div>'
        for what, image in pictures
    )
    swatches = "".join(
        f'<span><i style="background:rgb({",".join(str(int(c)) for c in colour)})"></i>'
        f"{text(name)}</span>"
        for name, colour in legend
    )
    return (
        f'<figure{" class=wide" if wide else ""}><div class="row">{shown}</div>'
        f'<figcaption>{text(caption)}<div class="legend">{swatches}</div></figcaption></figure>'
    )


def data_uri(image: Image.Image, side: int = 320) -> str:
    """An image of at most `side` pixels as a JPEG inside the page, some 15 kB."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "jpeg", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
