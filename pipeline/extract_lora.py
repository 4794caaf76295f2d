"""python -m pipeline.extract_lora base=PATH tuned=PATH out=DIR [rank_select=… KEY=VALUE …]

Writes the difference of two networks of one architecture to DIR as a LoRA adapter for peft,
its ranks chosen by a policy of conf/rank_select. A PATH is a folder of transformers, a network
folder of this project, or a .safetensors file.
"""

from __future__ import annotations

from pipeline.config.commands import run_command
from pipeline.config.extraction import run_extraction

if __name__ == "__main__":
    run_command(__doc__, run_extraction)
