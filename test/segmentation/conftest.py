import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "mapping")]  # for training_room, and for the ray-cast room it is made of
