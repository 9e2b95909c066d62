"""Write a model folder from a training's last checkpoint, also while the training runs.

python examples/export_training.py runs/digits src/retrograde/zoo/models/digits
"""

import argparse

from retrograde.train import export

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the out folder of the training")
    parser.add_argument("into", help="the model folder to write")
    given = parser.parse_args()
    print(export(given.run, given.into))
