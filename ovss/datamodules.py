"""The data modules, under a name that no other project's folder can hide.

The code lies in the folder `datamodules` beside this package. Many Lightning projects have a folder
of that name, which is found in place of ours where they run; so it is loaded from here by its path.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datamodules import *  # noqa: F403

_folder = Path(__file__).parents[1] / "datamodules"
_spec = spec_from_file_location(
    __name__, _folder / "__init__.py", submodule_search_locations=[str(_folder)]
)
assert _spec is not None
assert _spec.loader is not None
# The package takes this module's place: the import that is under way returns it.
sys.modules[__name__] = module_from_spec(_spec)
_spec.loader.exec_module(sys.modules[__name__])
