"""evaluate: dense, compressed and fine-tuned side by side, in numbers and tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.data.files import example_input, load_facts, load_split, load_task
from pipeline.evaluation.latency import measured_once
from pipeline.evaluation.networks import compare_networks, defined
from pipeline.evaluation.options import EvaluateOptions
from pipeline.machine.devices import FabricOptions, make_fabric
from pipeline.reporting.run.exporting import write_exports
from pipeline.reporting.run.facts import read_facts
from pipeline.reporting.run.layers import check_bounds
from pipeline.reporting.run.metrics import FILE, Network
from pipeline.reporting.run.timings import FOLDERS
from pipeline.reporting.run.write import network_size, write_reports
from stages._io import main, section_options, write_json
from stages._network import load_network, named_code

DATA, OUT, REPORTS = Path("out/data"), Path("out"), Path("reports")


def run() -> None:
    options = section_options("evaluate", EvaluateOptions)
    # One process, also where several trained: the test split is small, and one process writes.
    single = replace(
        section_options("fabric", FabricOptions), devices=1, num_nodes=1, strategy="auto"
    )
    fabric = make_fabric(single, seed=0)
    data, task = load_facts(DATA), load_task(DATA)
    splits = {name: load_split(DATA, name) for name in data.sizes if name in ("test", "ood")}
    folders = {name: Path(folder) for name, folder in FOLDERS.items()}
    networks = {name: load_network(folder) for name, folder in folders.items()}
    facts = read_facts(OUT)
    check_bounds(facts.compression.layers)
    example = example_input(data.examples, task)
    sizes = {
        name: network_size(network, folders[name], example) for name, network in networks.items()
    }
    ready = {name: fabric.setup_module(network) for name, network in networks.items()}
    scores = defined(compare_networks(ready, splits, task, options.batch_size))
    results = {name: Network(scores[name], sizes[name]) for name in networks}
    metrics = write_reports(REPORTS, facts, results, task.measures)
    write_json(REPORTS / FILE, metrics.to_json())
    write_exports(Path(), load_network, options.export)
    code = named_code()
    measured_once(folders, DATA, options, single, again_if_busy=True, allow=code)


if __name__ == "__main__":
    main(run)
