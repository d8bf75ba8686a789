"""Every golden file agrees with product code, and a file that does not is noticed."""

from __future__ import annotations

import json
from math import nan
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.errors import says
from tests.golden import replay as replaying
from tests.golden.official_viclip import official_viclip
from tests.golden.replay import _compare, beyond, kind_of, largest, main, norm, replay, tolerance

HERE = Path(__file__).parent
FILES = sorted(file for file in HERE.iterdir() if file.suffix in {".safetensors", ".json"})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_product_code_reproduces_the_golden_file(file: Path) -> None:
    deviations = replay(file)
    assert not {name: deviations[name] for name in beyond(file, deviations)}


@pytest.mark.parametrize("output", ["out.eval.logits_unseen_tfm", "out.train.grad.transformer.resblocks.1.ln_2.bias"])
@pytest.mark.parametrize("shift", [3e-4, nan])
def test_a_perturbed_output_exits_1(tmp_path: Path, output: str, shift: float) -> None:
    case = load_file(HERE / "mote_head.safetensors")
    case[output][0] += shift
    save_file(case, tmp_path / "mote_head.safetensors")
    assert main([str(tmp_path / "mote_head.safetensors")]) == 1


def test_an_output_that_is_not_computed_exits_1(tmp_path: Path) -> None:
    case = load_file(HERE / "text4vis_head.safetensors")
    save_file(case | {"out.novel": torch.zeros(1)}, tmp_path / "text4vis_head_b.safetensors")
    assert main([str(tmp_path / "text4vis_head_b.safetensors")]) == 1


def test_a_rate_that_is_one_iteration_late_exits_1(tmp_path: Path) -> None:
    case = json.loads((HERE / "lr_schedule.json").read_text())
    case["lr_per_iteration"].insert(0, case["lr_per_iteration"][0])
    (tmp_path / "lr_schedule.json").write_text(json.dumps(case))
    assert main([str(tmp_path / "lr_schedule.json")]) == 1


def test_the_longest_kind_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(replaying.KINDS, "actionclip", lambda path: {})
    assert kind_of(Path("actionclip_frame_sampling.json")) == "actionclip_frame_sampling"
    assert kind_of(Path("actionclip_b.safetensors")) == "actionclip"


def test_a_kind_has_tolerances_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(replaying.TOLERANCES, "mote_head", {"test.*": 5e-5})
    names = "test.probabilities", "frames", "grad.scale"
    assert [tolerance(name, "mote_head") for name in names] == [5e-5, 1e-5, 1e-4]
    assert [tolerance(name) for name in names] == [1e-5, 1e-5, 1e-4]


def test_logits_of_viclip_are_up_to_100() -> None:
    found = {
        (kind, name): tolerance(name, kind) for kind, name in (("viclip", "logits_100"), ("msta_viclip", "a.logits"))
    }
    assert {*found.values()} == {1e-4} and tolerance("video", "viclip") == tolerance("a.video", "msta_viclip") == 1e-5


def test_a_gradient_has_the_measure_of_its_readme() -> None:
    """One of 100 entries is wrong by 3e-4 of the largest, hence by 3e-5 of the norm."""
    reference = torch.ones(100)
    own = reference.clone()
    own[0] += 3e-4
    found = [
        _compare({"grad.x": own}, {"out.grad.x": reference}, *sizes)["grad.x"] for sizes in ((), (norm,), (largest,))
    ]
    assert found == pytest.approx([3e-4, 3e-5, 3e-4], rel=1e-3)


@pytest.mark.parametrize(("file", "passes"), [("vita_clip", True), ("actionclip", False)])
def test_gradients_of_a_kind_are_measured_so(file: str, passes: bool, tmp_path: Path) -> None:
    case = load_file(HERE / f"{file}.safetensors")
    name = next(name for name, own in case.items() if ".grad" in name and own.norm() > 4 * own.abs().max())
    case[name].view(-1)[0] += 2e-4 * case[name].abs().max()
    save_file(case, tmp_path / f"{file}.safetensors")
    assert main([str(tmp_path / f"{file}.safetensors")]) == int(not passes)


@pytest.mark.parametrize("entry", ["xclip", "aim_large", "vita_clip_schedule"])
def test_another_rate_than_the_presets_exits_1(entry: str, tmp_path: Path) -> None:
    own = json.loads((HERE / "adapter_recipes.json").read_text())[entry]
    if "lr" in own:
        own |= {"base": 3 * own["base"], "lr": [3 * rate for rate in own["lr"]]}
    else:
        own = {name: [3 * rate, decay] for name, (rate, decay) in own.items()}
    (tmp_path / "adapter_recipes_b.json").write_text(json.dumps({entry: own}))
    assert main([str(tmp_path / "adapter_recipes_b.json")]) == 1


@torch.no_grad()
def test_heads_of_viclip_are_found() -> None:
    case = load_file(HERE / "viclip.safetensors")
    state, inputs = (
        {n.partition(".")[2]: t for n, t in case.items() if n.startswith(own)} for own in ("state.", "in.")
    )
    clip = official_viclip(state, inputs, case["out.video"], case["out.text"])
    assert (clip.spec.vision_heads, clip.spec.text_heads) == (2, 3)
    for layer in (*clip.visual.transformer.resblocks, *clip.transformer.resblocks):
        layer.attn.num_heads, layer.attn.head_dim = 4, layer.attn.embed_dim // 4
    features = clip.encode_clips(inputs["pixels"])[:, 0], clip.encode_text(inputs["tokens"])
    other = official_viclip(state, inputs, *features)
    assert (other.spec.vision_heads, other.spec.text_heads) == (4, 4)


def test_an_unknown_kind_exits_2_and_names_the_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "mote_hed.json")]) == 2
    assert "did you mean 'mote_head'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("aim_cut.safetensors", b"\x10\x00", "cannot be replayed as aim"),
        ("adapter_recipes_cut.json", b'{"aim', "cannot be replayed as adapter_recipes"),
        ("adapter_recipes_empty.json", b"{}", "has no outputs of adapter_recipes"),
        ("xclip_absent.safetensors", None, "FileNotFoundError"),
    ],
)
def test_a_file_that_cannot_be_replayed_exits_2_with_one_line(
    name: str, content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main([str(tmp_path / name)]) == 2
    says(capsys.readouterr().err, said, name)


def test_a_file_may_hold_the_cases_of_one_rule(tmp_path: Path) -> None:
    told = json.loads((HERE / "adapter_frame_sampling.json").read_text(encoding="utf-8"))
    told["cases"] = [row for row in told["cases"] if row["rule"] == told["cases"][0]["rule"]]
    (tmp_path / "adapter_frame_sampling_one.json").write_text(json.dumps(told), encoding="utf-8")
    assert list(replay(tmp_path / "adapter_frame_sampling_one.json").values()) == [0.0]
