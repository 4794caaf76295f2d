"""The stages of the chain: one short file each. A stage reads, calls, writes."""

import os

# Set before torch is imported: threads that wait for work sleep soon instead of spinning for
# long. Beside another busy process (a sweep's jobs, say) that is the difference between 3 s and
# 20 s. Sleeping at once would cost a training that is alone a third of its speed: 20,000 turns
# (about a millisecond) 8.4 s, none 12.3 s for 150 steps of a small CNN on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

# Libraries' bars would fill the logs; a training's own progress is shown by itself.
os.environ.setdefault("TQDM_DISABLE", "1")
