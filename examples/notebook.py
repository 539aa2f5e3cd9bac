"""A walk through the method, in cells (Jupyter, VS Code and PyCharm run `# %%` as such).

As a script: `python examples/notebook.py`. Nothing is downloaded.
"""

# %% [markdown]
# ## A photo and some names
# The demo's scenes are drawn; with a published model any photo and any names will do.

# %%
import numpy as np
from ovss.datamodules.scene_generator import CLASSES, classes_in, draw_scene

import ovss

photo, truth = draw_scene(seed=20_000_005)
names = [str(name) for name in classes_in(truth)]
result = ovss.segment(photo, names)
result  # noqa: B018 - a notebook shows the overlay

# %% [markdown]
# ## What was found, and how well

# %%
for name in names:
    found, there = result.mask(name), truth == 1 + CLASSES.index(name)
    iou = (found & there).sum() / max(1, (found | there).sum())
    print(f"{name}: IoU {iou:.2f}")

# %% [markdown]
# ## Why: the evidence of each round
# Round 0 sees the whole photo. Then the most salient patches are blanked, and it looks again.

# %%
for number in range(len(result.rounds)):
    heat = result.heatmap(names[0], number)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    print(f"round {number}: most of {names[0]} at row {row}, column {column}")
picture = result.heatmap_overlay(names[0])
picture  # noqa: B018

# %% [markdown]
# ## Without Salience DropOut

# %%
from ovss.salience import SalienceDropout  # noqa: E402

once = ovss.segment(photo, names, dropout=SalienceDropout(rounds=1))
changed = (once.labels != result.labels).mean()
print(f"{100 * changed:.1f} % of the pixels get another label")
