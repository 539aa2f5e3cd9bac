"""Label maps for people to look at: colours over the photo, contours, names and a legend."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovss.visualization.name_placement import Box, find_place, regions_to_name

RGB = tuple[int, int, int]
WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)
VOID: RGB = (224, 224, 192)
"""Pixels without a label, in Pascal VOC's colour for them."""

_MIN_SHORT_SIDE, _MAX_LONG_SIDE = 480, 1600
_MAX_LISTED = 12
"""More classes that were not found are counted, not listed."""
_TEXT_COLOUR: RGB = (32, 33, 36)
_FAINT_COLOUR: RGB = (112, 117, 122)
_NOTE_GROUND: RGB = (255, 236, 179)


def draw_overlay(
    photo: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[RGB],
    background: int | None = None,
    opacity: float = 0.55,
    names: bool = True,
    legend: bool = True,
    missing: Sequence[int] = (),
    enlarge: bool = True,
    note: str = "",
) -> Image.Image:
    """A photo with its label map over it.

    Every class has its colour and a white contour, its name on its larger regions where there is
    room, and an entry in the legend below with its share of the pixels.

    Args:
        photo: `(H, W, 3)` uint8 RGB.
        labels: `(H, W)` uint8; values from `len(classes)` on are pixels without a label.
        classes: a name for each label.
        palette: an RGB colour for each label.
        background: a label that gets neither colour nor name.
        opacity: of the colours, 0..1.
        names: write names on the regions.
        legend: add the legend.
        missing: labels that were looked for and not found, named at the legend's end.
        enlarge: bring the shorter side to at least 480 and the longer to at most 1,600 pixels;
            otherwise the picture has the photo's size.
        note: a last line below, also without the legend.

    Raises:
        ValueError: sizes that differ, or an opacity outside 0..1.
    """
    if photo.shape[:2] != labels.shape:
        raise ValueError(
            f"Expected a label map of the photo's size {photo.shape[:2]}, but got {labels.shape}."
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"Expected `opacity` to be in 0..1, but got {opacity}.")
    shares = np.bincount(labels.ravel(), minlength=256) / labels.size
    found = [i for i in range(len(classes)) if shares[i] and i != background]
    if enlarge:
        size = display_size(*labels.shape)
        photo, labels = resize_photo(photo, size), resize_labels(labels, size)
    # A line of 1/300 of the picture stays visible without hiding thin regions.
    width = max(1, round(min(labels.shape) / 300))
    pixels = blend(photo, labels, palette, background, opacity)
    pixels[contours(labels, len(classes), width)] = WHITE
    image = Image.fromarray(pixels)
    font_size = max(11, round(min(labels.shape) / 30))
    if names:
        write_names(image, labels, classes, palette, background, font_size)
    if not legend:
        return _stacked([image, *_drawn_note(note, image.width, font_size)])
    entries: list[tuple[str, RGB | None]] = [
        (f"{classes[i]} {_percent(shares[i])}", palette[i])
        for i in sorted(found, key=lambda i: -shares[i])
    ]
    absent = [f"{classes[i]} not found" for i in missing if not shares[i]]
    if len(absent) > _MAX_LISTED:
        absent = [f"{len(absent)} classes not found"]
    entries += [(text, None) for text in absent]
    below = draw_legend(entries or [("nothing found", None)], image.width, font_size)
    return _stacked([image, below, *_drawn_note(note, image.width, font_size)])


def _stacked(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width, from top to bottom."""
    whole = Image.new("RGB", (images[0].width, sum(each.height for each in images)), WHITE)
    top = 0
    for each in images:
        whole.paste(each, (0, top))
        top += each.height
    return whole


def _drawn_note(note: str, width: int, font_size: int) -> list[Image.Image]:
    """A text in lines of at most `width` pixels, dark on a warm ground; nothing for no text."""
    if not note:
        return []
    font, pad = load_font(font_size), font_size // 2
    lines = [""]
    for word in note.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width - 2 * pad:
            lines.append(word)
        else:
            lines[-1] = longer
    step = round(1.4 * font_size)
    image = Image.new("RGB", (width, len(lines) * step + pad), _NOTE_GROUND)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        middle = pad // 2 + number * step + step // 2
        draw.text((pad, middle), line, _TEXT_COLOUR, font, anchor="lm")
    return [image]


def blend(
    photo: np.ndarray,
    labels: np.ndarray,
    palette: Sequence[RGB],
    background: int | None = None,
    opacity: float = 0.55,
) -> np.ndarray:
    """`(H, W, 3)` uint8: each label's colour mixed over the photo, the background left alone."""
    colours = np.full((256, 3), VOID, np.float32)
    colours[: len(palette)] = palette
    weight = np.full((256, 1), opacity, np.float32)
    if background is not None:
        weight[background] = 0
    mixed = photo * (1 - weight[labels]) + colours[labels] * weight[labels]
    return np.rint(mixed).astype(np.uint8)


def contours(labels: np.ndarray, num_classes: int = 256, width: int = 1) -> np.ndarray:
    """`(H, W)` bool: lines of `width` pixels where two classes meet."""
    line = np.zeros(labels.shape, np.uint8)
    known = labels < num_classes
    beside = (labels[:, 1:] != labels[:, :-1]) & known[:, 1:] & known[:, :-1]
    below = (labels[1:] != labels[:-1]) & known[1:] & known[:-1]
    line[:, :-1] |= beside.astype(np.uint8)
    line[:-1] |= below.astype(np.uint8)
    return cv2.dilate(line, np.ones((width, width), np.uint8)).astype(bool)


def write_names(
    image: Image.Image,
    labels: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[RGB],
    background: int | None,
    font_size: int,
) -> list[tuple[int, Box]]:
    """Write class names on their regions, the largest first, none over another.

    Each class is named on its largest region, and on others from 4 % of the picture on. A name
    that finds no free place is left to the legend.

    Returns:
        The label and the place of every name that was written.
    """
    draw, font = ImageDraw.Draw(image), load_font(font_size)
    pad = max(2, font_size // 4)
    placed: list[tuple[int, Box]] = []
    for label, region in regions_to_name(labels, len(classes), background):
        ascent, descent = font.getmetrics()
        size = (round(font.getlength(classes[label])) + 2 * pad, ascent + descent + pad)
        box = find_place(region, size, labels.shape, [other for _, other in placed])
        if box is None:
            continue
        placed.append((label, box))
        draw.rounded_rectangle(
            (box.left, box.top, box.right - 1, box.bottom - 1), pad, fill=tuple(palette[label])
        )
        draw.text(
            (box.left + pad, box.top + pad // 2 + ascent),
            classes[label],
            readable_on(palette[label]),
            font,
            anchor="ls",
        )
    return placed


def draw_legend(
    entries: Sequence[tuple[str, RGB | None]], width: int, font_size: int
) -> Image.Image:
    """Swatches with names in lines of at most `width` pixels; no colour is an empty swatch."""
    font = load_font(font_size)
    pad, line = font_size // 2, round(1.6 * font_size)
    places, x, y = [], pad, pad
    for text, _ in entries:
        needed = round(font_size + pad + font.getlength(text) + 2 * pad)
        if x > pad and x + needed > width:
            x, y = pad, y + line
        places.append((x, y))
        x += needed
    image = Image.new("RGB", (width, y + line + pad // 2), WHITE)
    draw = ImageDraw.Draw(image)
    for (text, colour), (left, top) in zip(entries, places, strict=True):
        swatch = (left, top, left + font_size, top + font_size)
        if colour is None:
            draw.rectangle(swatch, outline=_FAINT_COLOUR)
        else:
            draw.rectangle(swatch, fill=tuple(colour))
        draw.text(
            (left + font_size + pad, top + font_size // 2 + 1),
            text,
            _FAINT_COLOUR if colour is None else _TEXT_COLOUR,
            font,
            anchor="lm",
        )
    return image


def draw_heatmap(photo: np.ndarray, heat: np.ndarray) -> Image.Image:
    """A photo with `(H, W)` evidence in 0..1 over it, from clear through red to yellow."""
    ramp = cv2.applyColorMap(np.rint(heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = np.clip(heat, 0, 1)[..., None] * 0.85
    mixed = photo * (1 - weight) * 0.8 + ramp[..., ::-1] * weight
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def palette_png(labels: np.ndarray, palette: Sequence[RGB]) -> Image.Image:
    """`(H, W)` uint8 labels as a palette image: the values are the labels, the colours for show."""
    image = Image.fromarray(labels)
    colours = list(palette)[:256] + [VOID] * (256 - len(palette))
    image.putpalette([channel for colour in colours for channel in colour])
    return image


def distinct_palette(count: int) -> tuple[RGB, ...]:
    """Colours that differ from their neighbours in the list, for classes without any of their own.

    The first are Okabe and Ito's, told apart by colour-blind people too (without black); from the
    eighth on hues follow the golden angle.
    """
    first: list[RGB] = [
        (230, 159, 0),
        (86, 180, 233),
        (213, 94, 0),
        (0, 158, 115),
        (204, 121, 167),
        (240, 228, 66),
        (0, 114, 178),
    ]
    for index in range(len(first), count):
        hue, value = (index * 0.381966) % 1, (0.95, 0.7)[index % 2]
        red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.75, value))
        first.append((red, green, blue))
    return tuple(first[:count])


def display_size(height: int, width: int) -> tuple[int, int]:
    """A size to look at: the shorter side at least 480, the longer at most 1,600 pixels."""
    scale = min(max(1.0, _MIN_SHORT_SIDE / min(height, width)), _MAX_LONG_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_photo(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`(H, W, 3)` uint8 to another (height, width)."""
    if photo.shape[:2] == size:
        return photo
    return np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BICUBIC))


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`(H, W)` uint8 to another (height, width): per pixel the label with the largest share."""
    if labels.shape == size:
        return labels
    best = np.full(size, -1.0, np.float32)
    result = np.zeros(size, np.uint8)
    how = cv2.INTER_LINEAR if size[0] >= labels.shape[0] else cv2.INTER_AREA
    for label in np.unique(labels):
        share = cv2.resize((labels == label).astype(np.float32), size[::-1], interpolation=how)
        larger = share > best
        best[larger], result[larger] = share[larger], label
    return result


def readable_on(colour: RGB) -> RGB:
    """Black or white, whichever stands out more from a colour; their ratio is at least 4.5."""
    return max(BLACK, WHITE, key=lambda ink: contrast(ink, colour))


def contrast(one: RGB, other: RGB) -> float:
    """Contrast ratio of two colours, 1..21 (WCAG 2.2, "relative luminance")."""

    def luminance(colour: RGB) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (channel / 255 for channel in colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@lru_cache(maxsize=16)
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, so that pictures are the same everywhere."""
    return ImageFont.load_default(size)  # type: ignore[return-value] # bitmap only without FreeType


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"
