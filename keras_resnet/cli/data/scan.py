"""`keras-resnet data scan`: faulty, duplicate and unusual images of a data set."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.cli import options
from keras_resnet.cli.data import data
from keras_resnet.support.files import check_new, whole_file
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, progress_bar, table

if TYPE_CHECKING:
    from keras_resnet.data.check.scan import ScanReport

#: Findings printed per kind.
_SHOWN = 20


@data.command()
def scan(
    source: Annotated[
        str, typer.Argument(help="folder:PATH, tfrecord:GLOB, csv:FILE, cifar:PATH, tfds:NAME, …")
    ],
    small: Annotated[
        int, typer.Option(min=1, help="Images with a side of fewer pixels are reported as tiny.")
    ] = 32,
    output: Annotated[
        Path | None, typer.Option(help="New file for all findings: .csv or .json.")
    ] = None,
    log_every: options.LogEvery = 60.0,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> int:
    """Find unreadable, duplicate and suspicious images (exit code 1: images cannot be read)."""
    if output is not None:
        if output.suffix.lower() not in (".csv", ".json"):
            raise ValueError(f"Expected `--output` to end in .csv or .json. Received: {output}")
        check_new(output, overwrite)
    from keras_resnet.data.sources.load import check_source, load_every_split

    check_source(source)
    with quiet():
        from keras_resnet.data.check import scan as scanning
    sources = list(load_every_split(source).values())
    # No lines of progress without a terminal.
    with progress_bar("scan", hidden=as_json, lines=0) as step:
        report = scanning.scan(sources, small=small, progress=step)
    if output is not None:
        _save(report, output)
    if as_json:
        options.print_json(report.to_dict())
    else:
        _print(report, output)
    return 1 if report.errors else 0


def _save(report: ScanReport, output: Path) -> None:
    with (
        whole_file(output) as partial,
        # File names may be arbitrary bytes.
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        if output.suffix.lower() == ".json":
            json.dump(report.to_dict(), file, indent=2)
        else:
            rows = csv.DictWriter(file, ("kind", "severity", "name", "detail"))
            rows.writeheader()
            rows.writerows(asdict(finding) for finding in report.findings)


def _print(report: ScanReport, output: Path | None) -> None:
    from keras_resnet.data.check.scan import KINDS

    if report.counts:
        kinds = table(("finding", "severity", "images"), left=2)
        for kind, count in report.counts.items():
            kinds.add_row(kind, KINDS[kind], f"{count:,}")
        console.print(kinds)
    for kind, count in report.counts.items():
        found = [finding for finding in report.findings if finding.kind == kind]
        for finding in found[:_SHOWN]:
            console.print(f"{kind}: {finding.name}: {finding.detail}")
        if count > _SHOWN:
            more = "" if output else "; --output writes all of them"
            console.print(f"{kind}: and {count - _SHOWN:,} more{more}")
    console.print(_classes(report))
    if output:
        console.print(f"Written: {output}, {len(report.findings):,} findings.")
    warnings = sum(finding.severity == "warning" for finding in report.findings)
    share = f"{report.errors:,} of {report.images:,} images ({report.bad_fraction:.2%})"
    errors = f"{share} cannot be read and will be skipped"
    verdict = errors if report.errors else f"All {report.images:,} images can be read"
    console.print(f"{verdict}; {warnings:,} warning{'s' * (warnings != 1)}.")


def _classes(report: ScanReport) -> Any:
    """Return a table of the splits, with their largest and smallest classes."""
    rows = table(
        ("split", "largest class", "smallest class", "classes", "images", "largest", "smallest"),
        left=3,
        wrap=("split", "largest class", "smallest class"),
    )
    for split, (name, images) in enumerate(report.sources):
        by_count = sorted(report.classes, key=lambda label: report.classes[label][split])
        least, most = by_count[0], by_count[-1]
        counts = (len(by_count), images, report.classes[most][split], report.classes[least][split])
        rows.add_row(name, most, least, *(f"{count:,}" for count in counts))
    return rows
