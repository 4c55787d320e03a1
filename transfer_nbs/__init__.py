"""Transfer learning for image classification; importing this before PyTorch also decides how PyTorch's threads wait."""

__version__ = "0.1.0"

import os

# Threads of OpenMP spin while they wait for each other, and take the time of whatever else runs: a training run beside another one on two cores took
# 35 times as long. PyTorch's library reads this once, when it is loaded. A setting of the user's own stays.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ): os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
