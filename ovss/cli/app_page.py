"""The page of the command `app`, in Gradio."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovss.cli.app_segment import PhotoSegmenter
from ovss.utils.shipped import shipped_models

log = logging.getLogger(__name__)

MAX_UPLOAD = 20 << 20
"""Bytes of a photo."""
QUEUE = 8
"""Photos that may wait; one more is told to come again."""
FONTS = ["system-ui", "sans-serif"]
"""Of the machine: Gradio's own themes fetch theirs from a server."""

CSS = """
@media (max-width: 600px) {
  #heatmaps .grid-container { grid-template-columns: repeat(2, 1fr) !important; }
}
"""
"""Five pictures side by side are too small on a telephone."""


def build_page(
    segmenter: PhotoSegmenter, model: str, examples: Sequence[tuple[str, str]], folder: Path
) -> Any:
    """The page, a `gradio.Blocks`.

    Args:
        segmenter: of photos.
        model: the one to begin with.
        examples: photos with the names to look for.
        folder: for pictures, where Gradio keeps uploads, too (`GRADIO_TEMP_DIR`).
    """
    import gradio as gr  # an extra

    def run(photo: str | None, names: str, model: str, background: bool) -> Any:
        if photo is None:
            raise gr.Error("Give a photo first.")
        began = time.monotonic()
        try:
            own = Path(tempfile.mkdtemp(dir=folder))
            shown = segmenter.segment(photo, names, model, background, own)
        except (ValueError, OSError, RuntimeError) as error:
            log.warning("%s", error)
            raise gr.Error(str(error).replace(str(photo), "the file"), duration=None) from error
        gallery = [(str(file), caption) for file, caption in shown.heatmaps]
        note = f"**{shown.note}** · " if shown.note else ""
        said = f"{note}{model}, {time.monotonic() - began:.1f} s"
        download = gr.DownloadButton(value=str(shown.labels), interactive=True)
        return str(shown.overlay), download, said, gallery

    with gr.Blocks(title="ovss", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown("# Segment a photo\nGive a photo and the names of what to look for in it.")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photo = gr.Image(
                    label="photo",
                    type="filepath",
                    image_mode=None,  # the file as it is: what it may be is checked by `as_pixels`
                    sources=["upload", "clipboard"],
                    height=320,
                )
                names = gr.Textbox(
                    label="names, separated by commas",
                    placeholder="cat, sofa, window",
                    max_length=4000,
                )
                chosen = gr.Dropdown(shipped_models(), value=model, label="model")
                background = gr.Checkbox(True, label="pixels may belong to none of them")
                button = gr.Button("Segment", variant="primary")
                gr.Examples(
                    [list(each) for each in examples],
                    [photo, names],
                    label="drawn scenes",
                    example_labels=[words for _, words in examples],
                )
            with gr.Column(scale=2, min_width=300):
                overlay = gr.Image(
                    label="overlay", format="png", interactive=False, buttons=["fullscreen"]
                )
                said = gr.Markdown()
                labels = gr.DownloadButton("Download the label map", interactive=False)
                gr.Markdown("Heat maps by round of Salience DropOut")
                heatmaps = gr.Gallery(
                    show_label=False,
                    elem_id="heatmaps",
                    format="png",
                    height="auto",
                    columns=5,
                    object_fit="contain",
                    interactive=False,
                    buttons=["fullscreen"],
                )
        gr.on(
            [button.click, names.submit],
            run,
            [photo, names, chosen, background],
            [overlay, labels, said, heatmaps],
            api_name="segment",
            concurrency_limit=1,
        )
    return page.queue(max_size=QUEUE, default_concurrency_limit=1)


def serve(page: Any, host: str, port: int, block: bool = True) -> Any:
    """Serve the page until Ctrl-C.

    Args:
        page: from `build_page`.
        host: address to listen at.
        port: to listen at.
        block: False returns with the page served by a thread.
    """
    import gradio as gr

    served = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_UPLOAD,
        footer_links=[],
        css=CSS,
        enable_monitoring=False,
        theme=gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),
    )
    log.info("The page is at %s; Ctrl-C ends it.", page.local_url)
    if block:
        page.block_thread()
    return served
