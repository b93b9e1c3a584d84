"""Time the evaluation of a dataset's test volumes with Dice, HD95 and ASD; show the network's forward pass apart.

    python scripts/bench_eval.py dataset=acdc dataset.root=DATA/ACDC network.weights=FILE

Give trained weights: an untrained network may predict empty masks, which make the metrics cheap. The total includes
reading the files, as in the public test script.
"""

import argparse
import time
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ssl4seg.commands.conf import conf_dir
from ssl4seg.data.reading import read_all
from ssl4seg.run.assemble import build, dataset_of, forward_of, network_maker
from ssl4seg.run.device import fabric_of
from ssl4seg.scoring.predictor import Measures, Predictor, evaluate, table_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", default="default")
    arguments, overrides = parser.parse_known_args()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config: Any = OmegaConf.to_container(compose("eval", overrides=overrides), resolve=True)
    fabric = fabric_of(num_threads=config["num_threads"], precision=config["precision"])
    dataset = dataset_of(config["dataset"])
    network = network_maker(config["network"], dataset.channels, dataset.num_classes, statistics=dataset.statistics())()
    network = network.to(fabric.device, memory_format=torch.channels_last)
    forwards: list[float] = []
    predict = forward_of(network, fabric)

    def timed(image: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        logits = predict(image)
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        forwards.append(time.perf_counter() - start)
        return logits

    predictor = Predictor(
        predict=timed,
        inference=build(config["inference"], "inference", shape=dataset.image_size),
        device=fabric.device,
        batch_size=config["eval_batch_size"],
        protocol=arguments.protocol,
    )
    start = time.perf_counter()
    cases = read_all(dataset.cases("test"), dataset.num_classes)
    reading = time.perf_counter() - start
    table = table_of(dataset, dataset.cases("test"), Measures(**config["metrics"]), arguments.protocol)
    evaluate(predictor, cases, table)
    total, forward = time.perf_counter() - start, sum(forwards)
    resizing, scoring = table.forward_seconds - forward, table.seconds - table.forward_seconds
    print(f"{arguments.protocol} protocol, {fabric.strategy.precision.precision}, {len(cases)} cases")
    print(f"total_s: {total:.2f}, without the network's forward pass {total - forward:.2f}")
    print(f"  reading {reading:.2f}, forward {forward:.2f}, resizing and argmax {resizing:.2f}, scoring {scoring:.2f}")
    print(f"mean Dice {table.summary()['dice']['mean']:.4f}")


if __name__ == "__main__":
    main()
