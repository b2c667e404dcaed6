"""The workers of a training run, from the command line, `TF_CONFIG` or Slurm."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keras_resnet.support.checks import is_integer
from keras_resnet.support.json_text import parse_json

_ADDRESS = re.compile(r"([A-Za-z0-9._-]+):([0-9]{1,5})")

_LOCAL = {"localhost": "127.0.0.1"}

#: Ports of Slurm jobs, below those that Linux uses for outgoing connections. Every job gets a range
#: of its own, as jobs may share nodes.
_SLURM_PORTS = range(12_000, 32_000)
_PORTS_PER_JOB = 64


@dataclass(frozen=True)
class Cluster:
    """The workers of a training run and the index of this process among them.

    Attributes:
        addresses: `host:port` of every worker. The first worker is the chief, which writes files.
        index: index of this process among the workers, counted from 0.
        origin: origin of the settings: `--workers`, `TF_CONFIG` or `Slurm`.
        own_devices: whether this process sees only the GPUs that are meant for it. Otherwise,
            workers on the same host divide its GPUs among them.

    Raises:
        ValueError: If an address is not `host:port` or occurs twice, or if `index` is out of range.
    """

    addresses: tuple[str, ...]
    index: int
    origin: str
    own_devices: bool = False

    def __post_init__(self) -> None:
        for address in self.addresses:
            match = _ADDRESS.fullmatch(address)
            if match is None or not 0 < int(match[2]) < 65_536:
                raise ValueError(
                    f"Expected addresses `host:port` of workers. Received: {address!r}, from "
                    f"{self.origin}"
                )
        places = self.hosts_and_ports
        same = [
            a for a, place in zip(self.addresses, places, strict=True) if places.count(place) > 1
        ]
        if same:
            raise ValueError(
                f"Expected a different address for every worker. Received: {' and '.join(same)}, "
                f"from {self.origin}"
            )
        if not is_integer(self.index, 0) or self.index >= len(self.addresses):
            raise ValueError(
                f"Expected the index of one of the {len(self.addresses)} workers, from 0 to "
                f"{len(self.addresses) - 1}. Received: {self.index}, from {self.origin}"
            )

    @property
    def workers(self) -> int:
        return len(self.addresses)

    @property
    def is_chief(self) -> bool:
        return self.index == 0

    @property
    def hosts_and_ports(self) -> tuple[tuple[str, int], ...]:
        """Normalized hosts and ports: hosts in lower case, and 127.0.0.1 for localhost."""
        parts = (address.lower().rpartition(":") for address in self.addresses)
        return tuple((_LOCAL.get(host, host), int(port)) for host, _, port in parts)

    @property
    def neighbors(self) -> tuple[int, ...]:
        """Indices of the workers on the host of this worker, including itself."""
        hosts = [host for host, _ in self.hosts_and_ports]
        return tuple(i for i, host in enumerate(hosts) if host == hosts[self.index])

    def tf_config(self) -> str:
        """Return the cluster as the value of `TF_CONFIG`."""
        task = {"type": "worker", "index": self.index}
        return json.dumps({"cluster": {"worker": list(self.addresses)}, "task": task})


def cluster_from(
    workers: str | None, index: int | None, environ: Mapping[str, str]
) -> Cluster | None:
    """Return the cluster that this process belongs to, or None if it trains alone.

    Arguments take precedence over `TF_CONFIG`, and `TF_CONFIG` over Slurm.

    Args:
        workers: `host:port,host:port`, the same on every worker, or None.
        index: index of this process among the workers, counted from 0, or None.
        environ: environment variables. `TF_CONFIG` may have a `chief`, which becomes worker 0. Of
            the variables of Slurm, only those that `srun` sets for its tasks are used: a batch
            script without `srun` trains alone. Lists of hosts are expanded without `scontrol`,
            which is usually missing in containers.

    Raises:
        ValueError: If a setting is missing, malformed, or inconsistent with the others.
    """
    if workers is not None or index is not None:
        if workers is None or index is None:
            raise ValueError(
                "Expected `workers` and `worker_index` together. Received: only one of them"
            )
        cluster: Cluster | None = Cluster(tuple(workers.split(",")), index, "--workers")
    elif environ.get("TF_CONFIG", "").strip():
        cluster = _from_tf_config(environ["TF_CONFIG"])
    elif _number(environ, "SLURM_STEP_NUM_TASKS", "1") > 1:
        cluster = _from_slurm(environ)
    else:
        cluster = None
    return None if cluster is None or cluster.workers == 1 else cluster


def expand_nodes(nodes: str) -> list[str]:
    """Return the hosts of a Slurm node list: `a[01-02,5],b` is a01, a02, a5, b.

    Raises:
        ValueError: If the list is malformed.
    """
    # A comma inside brackets does not end a name.
    names = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", nodes)
    if not names or ",".join(names) != nodes:
        raise ValueError(
            f"Expected a list of nodes such as node[01-04],other. Received: {nodes!r}, from Slurm"
        )
    return [host for name in names for host in _expand(name)]


def _expand(name: str) -> list[str]:
    """Return the hosts of one name with ranges of numbers in brackets."""
    before, bracket, rest = name.partition("[")
    if not bracket:
        return [name]
    ranges, _, after = rest.partition("]")
    numbers: list[str] = []
    for match in _matches(r"([0-9]+)(?:-([0-9]+))?", ranges, "ranges of numbers such as 01-04,7"):
        first, last = match[1], match[2] or match[1]
        # All numbers of a range have as many digits as the first one.
        numbers += [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    return [before + number + end for number in numbers for end in _expand(after)]


def _from_tf_config(text: str) -> Cluster | None:
    def refused(received: str) -> ValueError:
        return ValueError(
            "Expected TF_CONFIG such as "
            '{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}. '
            f"Received: {received}"
        )

    try:
        config: Any = parse_json(text)
    except ValueError as error:
        raise refused(f"invalid JSON ({error})") from error
    if not isinstance(config, dict):
        raise refused(text)
    hosts = config.get("cluster") or {}
    if not hosts:
        return None
    task = config.get("task")
    if not isinstance(hosts, dict) or not isinstance(task, dict):
        raise refused(text)
    for role in (*hosts, task.get("type")):
        if role not in ("chief", "worker"):
            raise refused(
                f"the role {role!r}. Use workers only: the first one also evaluates, and there are "
                "no parameter servers"
            )
    chief, others = hosts.get("chief", []), hosts.get("worker", [])
    index: Any = task.get("index")
    addresses = (*chief, *others) if all(isinstance(x, list) for x in (chief, others)) else (0,)
    # Some services set the index as a string.
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    if not all(isinstance(a, str) for a in addresses):
        raise refused(text)
    if not is_integer(index, 0):
        raise refused(f"the index {index!r}")
    own = chief if task["type"] == "chief" else others
    if len(chief) > 1 or index >= len(own):
        raise refused(f"{task['type']} {index} of {len(own)}, and {len(chief)} chiefs")
    return Cluster(addresses, index + len(chief) * (own is others), "TF_CONFIG")


def _from_slurm(environ: Mapping[str, str]) -> Cluster:
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS")
    index = _number(environ, "SLURM_PROCID")
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    shares = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE", "")
    distribution = environ.get("SLURM_DISTRIBUTION", "block")
    if not distribution.startswith("block"):
        raise ValueError(
            "Expected Slurm tasks to be distributed in blocks. Received: SLURM_DISTRIBUTION="
            f"{distribution}. Run srun with `--distribution=block`, or pass `workers`"
        )
    hosts, counts = expand_nodes(nodes), _counts(shares)
    if len(hosts) != len(counts) or sum(counts) != tasks:
        raise ValueError(
            f"Expected {tasks} tasks on the nodes of the Slurm step. Received: {shares!r} tasks on "
            f"{nodes!r}. Pass `workers` and `worker_index`"
        )
    jobs = len(_SLURM_PORTS) // _PORTS_PER_JOB
    first = _SLURM_PORTS[_number(environ, "SLURM_JOB_ID", "0") % jobs * _PORTS_PER_JOB]
    addresses = tuple(
        f"{host}:{first + local}"
        for host, count in zip(hosts, counts, strict=True)
        for local in range(count)
    )
    return Cluster(addresses, index, "Slurm", own_devices="SLURM_GPUS_PER_TASK" in environ)


def _counts(text: str) -> list[int]:
    """Return the number of tasks on each node: `2(x3),1` is 2, 2, 2, 1."""
    matches = _matches(r"([0-9]+)(?:\(x([0-9]+)\))?", text, "tasks per node such as 2(x3),1")
    return [int(match[1]) for match in matches for _ in range(int(match[2] or 1))]


def _matches(pattern: str, text: str, expected: str) -> Iterator[re.Match[str]]:
    """Yield the match of a pattern for each part of a Slurm list."""
    for part in text.split(","):
        match = re.fullmatch(pattern, part)
        if match is None:
            raise ValueError(f"Expected {expected}. Received: {text!r}, from Slurm")
        yield match


def _number(environ: Mapping[str, str], name: str, default: str = "") -> int:
    text = environ.get(name, default)
    if not text.isdecimal():
        raise ValueError(f"Expected a number in {name}, which Slurm sets. Received: {text!r}")
    return int(text)
