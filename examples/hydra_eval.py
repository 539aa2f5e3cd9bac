"""An evaluation composed by Hydra: data, model, trainer, callbacks and loggers from YAML.

`python examples/hydra_eval.py model.layer=2 data.limit=4` (with `pip install hydra-core`).
Nothing is downloaded.
"""

from __future__ import annotations

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="hydra_configs", config_name="eval")
def main(config: DictConfig) -> None:
    """Test, and print the mIoU."""
    data, model = instantiate(config.data), instantiate(config.model)
    loggers = [instantiate(each) for each in config.logger.values()]
    callbacks = [instantiate(each) for each in config.callbacks.values()]
    trainer = instantiate(config.trainer, logger=loggers, callbacks=callbacks)
    (scores,) = trainer.test(model, datamodule=data, verbose=False)
    print(f"mIoU {scores['mIoU']:.3f} in {trainer.default_root_dir}")


if __name__ == "__main__":
    main()
