"""Pickled tasks over the cluster, with a progress bar in clips."""

from collections.abc import Callable, Sequence

from emo_ray import cluster
from emo_ray.config import Config
from emo_ray.progress import progress


def in_parallel(
    config: Config, work: Callable[[bytes], bytes], tasks: Sequence[bytes], title: str, sizes: Sequence[int]
) -> list[bytes]:
    """Run `work` over pickled tasks as Ray Data tasks. Results come in any order; `sizes` are the clips of each task.

    `work` must be a nested function: those travel by value, so that workers import only what they use.
    """
    if not tasks:
        return []
    import ray.data

    cluster.connect(config)

    def run(row: dict) -> dict:
        return {"size": row["size"], "result": work(row["task"])}

    rows = [{"task": task, "size": size} for task, size in zip(tasks, sizes, strict=True)]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(run, num_cpus=cluster.task_cpus())
    results = []
    with progress(title, sum(sizes), "clips") as advance:
        for row in dataset.iter_rows():
            results.append(row["result"])
            advance(row["size"])
    return results
