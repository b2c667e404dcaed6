"""Compare the networks with the papers' tables: sizes, costs and errors.

Sizes and costs are computed from the networks. Errors are quoted with their source and protocol, or
measured with the weights that come with this package. The last section lists common figures that
disagree with their sources. `--markdown` and `--json` print the same in these formats.
"""

import argparse
import json
import textwrap
from pathlib import Path

from keras_resnet.analysis.complexity import complexity, summarize
from keras_resnet.networks.table import get_config
from keras_resnet.weights.registry import find_weights

PUBLISHED = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def networks() -> list[dict]:
    """Return the computed and the published figures of every network of the papers."""
    rows = []
    for row in PUBLISHED["networks"]:
        config = get_config(row["network"], **row["config"])
        cost, side = complexity(config), config.default_size
        parts = summarize(config, (side, side, 3))
        # CIFAR's first convolution does not change the resolution.
        outputs = [part.output_shape for part in parts if part.name.endswith("_x")]
        if config.stem != "cifar":
            outputs.insert(0, parts[0].output_shape)
        ours = {"depth": cost.depth, "parameters": cost.params, "macs": cost.macs}
        rows.append({"network": row["label"], **ours, "outputs": outputs, "paper": row["paper"]})
    return rows


def errors() -> list[dict]:
    """Return the published errors, and those of this package's weights, in percent."""
    own = find_weights("keras_resnet/resnet20.cifar10_jpeg")
    measured = {
        "label": "ResNet-20, packaged",
        "protocol": "CIFAR-10 JPEG",
        "top1": round(100 - own.top1, 2),
        "top5": round(100 - own.top5, 2),
        "kind": "measured",
        "source": "card",
    }
    return [*PUBLISHED["errors"], measured]


def shown(value: float | None, unit: float = 1, form: str = ".2f") -> str:
    """Return a figure as text; a dash if it is None."""
    return "–" if value is None else format(value if unit == 1 else value / unit, form)


def table(columns: list[str], rows: list[list[str]], markdown: bool) -> str:
    """Return a table in Markdown, or in columns for a terminal."""
    if markdown:
        lines = [columns, ["---"] * len(columns), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join("  ".join(map(str.ljust, x, widths)).rstrip() for x in (columns, rule, *rows))


def report(markdown: bool) -> str:
    """Return all tables as text."""
    costs, sizes = [], []
    for row in networks():
        paper, line = row["paper"], [row["network"]]
        for figure, unit, form in (("depth", 1, "d"), ("parameters", 1e6, ""), ("macs", 1e9, "")):
            line += [
                shown(row[figure], unit, form or ".3f"),
                shown(paper[figure], unit, form or "g"),
            ]
        costs.append([*line, paper["source"]])
        ours = [f"{height}x{channels}" for height, _, channels in row["outputs"]]
        sizes.append([row["network"], " ".join(ours), "-".join(map(str, paper["sides"]))])
    figures = ("top1", "top5")
    found = [
        [x["label"], x["protocol"], *(shown(x[name]) for name in figures), x["kind"], x["source"]]
        for x in errors()
    ]
    columns = ["network", "depth", "paper", "params/M", "paper", "MACs/G", "paper", "source"]
    tables = [("Depth, parameters, multiply-accumulates", columns, costs)]
    columns = ["network", "computed", "paper's sides"]
    tables.append(("Output of every stage, side x channels", columns, sizes))
    columns = ["network", "protocol", "top-1", "top-5", "figure", "source"]
    tables.append(("Errors in percent", columns, found))
    heading = "\n## {}\n" if markdown else "\n{}\n"
    lines = []
    for title, columns, rows in tables:
        lines += [heading.format(title), table(columns, rows, markdown)]
    lists = [
        (title.capitalize(), [f"{name}: {words}" for name, words in PUBLISHED[title].items()])
        for title in ("protocols", "sources")
    ]
    items = [
        "{topic}: {circulating}? {found} ({source})".format(**row)
        for row in PUBLISHED["disagreements"]
    ]
    lists.append(("Where figures in circulation disagree with their sources", items))
    for title, items in lists:
        lines.append(heading.format(title))
        lines += [textwrap.fill(f"- {item}", 80, subsequent_indent="  ") for item in items]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--markdown", action="store_true")
    kind.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.json:
        found = {"networks": networks(), "errors": errors()}
        print(json.dumps({**found, "disagreements": PUBLISHED["disagreements"]}, indent=2))
    else:
        print(report(options.markdown))
