"""Runs of before a setting existed: what they lack has its default."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from keras_resnet.data.config import Augmentation
from keras_resnet.networks.config import ResNetConfig
from keras_resnet.training.recipes.parts import AverageConfig, LossConfig, OptimizerConfig
from keras_resnet.training.recipes.table import RECIPES
from keras_resnet.training.run.folder import FORMAT, RunFolder, differences
from keras_resnet.training.run.resolved import DEFAULTS
from keras_resnet.training.run.state_file import ResumeError

from ...fixtures.make_run import run

EARLIER = Path(__file__).parents[2] / "fixtures" / "run_format_0"


#: Of data that are the same as far as such a run says.
pytestmark = pytest.mark.filterwarnings("ignore:This run was saved by an earlier version")


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EARLIER, tmp_path / "run"))


def test_a_run_of_before_there_were_formats_goes_on(
    earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (earlier / "history.csv").read_text()
    assert "format" not in json.loads((earlier / "config.json").read_text())
    with pytest.warns(UserWarning, match="did not record the contents of the images"):
        run(earlier)
    assert "Resuming" in capsys.readouterr().out
    rows = (earlier / "history.csv").read_text()
    assert rows.startswith(first)
    assert len(rows.splitlines()) == 3
    assert [path.name for path in RunFolder(earlier).state_files()] == [
        "step-0000000090.safetensors"
    ]


def test_a_run_of_other_settings_than_the_default_does_not_go_on(earlier: Path) -> None:
    config = json.loads((earlier / "config.json").read_text())
    config["recipe"]["augmentation"] |= {"flip": 0.5}
    del config["recipe"]["optimizer"]["weight_decay"]
    (earlier / "config.json").write_text(json.dumps(config))
    expected = "weight_decay: 0.0 → 0.001\n  .*flip: 0.5 → 0.0\nUse"
    with pytest.raises(ResumeError, match=expected):
        run(earlier)


def test_a_run_of_a_later_format_does_not_go_on(earlier: Path) -> None:
    config = json.loads((earlier / "config.json").read_text())
    (earlier / "config.json").write_text(json.dumps({**config, "format": FORMAT + 1}))
    with pytest.raises(ResumeError, match=f"of format {FORMAT}. Received: .* Update keras-resnets"):
        run(earlier)
    RunFolder(earlier).write_config(config)
    assert json.loads((earlier / "config.json").read_text()) == {"format": FORMAT, **config}
    assert RunFolder(earlier).read_config() == config


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (("recipe", "augmentation"), Augmentation),
        (("recipe", "optimizer"), OptimizerConfig),
        (("recipe", "loss"), LossConfig),
        (("recipe", "average"), AverageConfig),
        (("model", "config"), ResNetConfig),
    ],
)
def test_every_field_has_its_default_where_it_is_absent(path: tuple[str, str], part: type) -> None:
    """Whichever field had been added after the run: only another value than the default differs."""
    network = dataclasses.asdict(ResNetConfig("basic", (1,), (8,), blur_pool=False))
    recipe = json.loads(json.dumps(RECIPES["quick-digits"].as_dict()))
    now = {"model": {"config": json.loads(json.dumps(network))}, "recipe": recipe}
    defaults = json.loads(json.dumps(DEFAULTS))
    for field in dataclasses.fields(part):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            continue
        before: dict[str, Any] = json.loads(json.dumps(now))
        del before[path[0]][path[1]][field.name]
        value = now[path[0]][path[1]][field.name]
        default = defaults[path[0]][path[1]][field.name]
        lines = [f"{'.'.join(path)}.{field.name}: {default!r} → {value!r}"]
        assert differences(before, now, defaults) == ([] if value == default else lines)


def test_defaults_of_whole_parts_and_of_lists() -> None:
    defaults = {"recipe": {"average": {"decay": 0.0}}, "stages": {"rate": 1.0}}
    before: dict[str, Any] = {"recipe": {}, "stages": [{"downto": "head"}, {"downto": "C5"}]}
    now: dict[str, Any] = {
        "recipe": {"average": {"decay": 0.0}},
        "stages": [{"downto": "head", "rate": 1.0}, {"downto": "C5", "rate": 0.1}],
    }
    assert differences(before, now, defaults) == ["stages[1].rate: 1.0 → 0.1"]
    assert differences(before, {**now, "stages": []}, defaults) == [
        "stages: [{'downto': 'head'}, {'downto': 'C5'}] → []"
    ]


def test_settings_that_a_folder_lacks_altogether(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config({"seed": 0})
    asked = {"seed": 0, "options": {"rate": 1}}
    assert folder.claim(asked, "compression", {"options": {"rate": 1}}) == {}
    with pytest.raises(ResumeError, match=r"options.rate: 2 → 1"):
        folder.claim(asked, "compression", {"options": {"rate": 2}})
    with pytest.raises(ResumeError, match="is that of something else"):
        folder.claim(asked, "compression", {})
