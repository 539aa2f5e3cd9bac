"""Command line: `python train_free_eval.py {test,predict,segment,...} --config configs/X.yaml`."""

from ovss.cli.main import main

if __name__ == "__main__":
    main()
