"""Options of training runs: presets, files, overrides, mistakes."""

from __future__ import annotations

import pytest

from gs_semantic.errors import InvalidRequestError
from gs_semantic.segmentation.config import (
    PRESETS,
    TrainingConfig,
    describe_options,
    make_config,
    parse_overrides,
    write_options,
)
from gs_semantic.segmentation.registry import all_methods, method_class

KINDS = [kind.Config for kind in all_methods().values()]


def test_the_paper_preset_is_the_published_recipe():
    grouping = make_config(method_class("grouping").Config, "paper")
    assert (grouping.iterations, grouping.densify_from, grouping.densify_until) == (30_000, 500, 10_000)
    assert (grouping.regularise_every, grouping.neighbours, grouping.regularise_points) == (5, 5, 1000)
    assert grouping.identity_pixels == 0 and grouping.normalise_by == 256
    gradiseg = make_config(method_class("gradiseg").Config, "paper")
    assert (gradiseg.densify_until, gradiseg.igd_from, gradiseg.igd_until, gradiseg.la_from) == (
        12000,
        12000,
        15000,
        12000,
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_short_run_has_a_short_schedule(kind):
    long, short = make_config(kind, "standard"), make_config(kind, "standard", overrides={"iterations": 3000})
    assert short.densify_until * 10 == long.densify_until
    assert short.densify_every == long.densify_every
    assert make_config(kind, "standard", overrides={"iterations": 3000, "densify_until": 77}).densify_until == 77


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("preset", PRESETS)
def test_written_options_give_the_same_configuration_again(kind, preset, tmp_path):
    config = make_config(kind, preset, overrides={"seed": 3})
    write_options(tmp_path / "config.yaml", config)
    assert make_config(kind, "paper", tmp_path / "config.yaml") == config


def test_overrides_go_over_the_file_and_the_file_over_the_preset(tmp_path):
    (tmp_path / "mine.yaml").write_text("width: 100\nlr_opacity: 1e-2\n")
    config = make_config(TrainingConfig, "quick", tmp_path / "mine.yaml", parse_overrides(["width=50"]))
    assert (config.width, config.lr_opacity, config.iterations) == (50, 0.01, 3000)


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        ("densify_untill=5", "option 'densify_untill': there is none of that name; did you mean 'densify_until'?"),
        ("iterations=many", "option 'iterations': expected int, as in iterations=30000, got 'many'"),
        ("iterations=0", "option 'iterations': 0 is outside 1.."),
        ("ssim_weight=1.5", "option 'ssim_weight': 1.5 is outside 0..1"),
        ("adam=some", "option 'adam': 'some' is none of all, visible"),
        ("width", "'width': expected NAME=VALUE"),
        ("initial=map", "initial=map: say which, initial_map=FOLDER"),
    ],
)
def test_wrong_options_are_named(pair, text):
    with pytest.raises(InvalidRequestError) as raised:
        make_config(TrainingConfig, "quick", overrides=parse_overrides([pair]))
    assert text in str(raised.value)


def test_wrong_files_and_presets_are_named(tmp_path):
    with pytest.raises(InvalidRequestError, match="not_there.yaml: cannot be read"):
        make_config(TrainingConfig, "quick", tmp_path / "not_there.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InvalidRequestError, match="list.yaml: expected lines of"):
        make_config(TrainingConfig, "quick", tmp_path / "list.yaml")
    with pytest.raises(InvalidRequestError, match="preset 'fast': expected one of quick, standard, paper"):
        make_config(TrainingConfig, "fast")
    with pytest.raises(InvalidRequestError, match="method 'magic': expected one of .*gradiseg.*grouping.*plain"):
        method_class("magic")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_option_is_described(kind):
    assert all(text for _, _, text in describe_options(kind))
