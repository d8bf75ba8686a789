import pytest

from bench.core.errors import UserError
from bench.models.backbones import backbone
from bench.models.clip import _tokenizer
from bench.models.prompts import TEMPLATES, kinds, prompts
from bench.suite.templates import HOLES

MOTE = """
a photo of {}. | a photo of a person {}. | a photo of a person using {}. | a photo of a person doing {}.
a photo of a person during {}. | a photo of a person performing {}. | a photo of a person practicing {}.
a video of {}. | a video of a person {}. | a video of a person using {}. | a video of a person doing {}.
a video of a person during {}. | a video of a person performing {}. | a video of a person practicing {}.
a example of {}. | a example of a person {}. | a example of a person using {}. | a example of a person doing {}.
a example of a person during {}. | a example of a person performing {}. | a example of a person practicing {}.
a demonstration of {}. | a demonstration of a person {}. | a demonstration of a person using {}.
a demonstration of a person doing {}. | a demonstration of a person during {}.
a demonstration of a person performing {}. | a demonstration of a person practicing {}.
"""


def test_motes_templates_are_the_28_published_ones_in_order() -> None:
    written_out = [template.strip() for line in MOTE.strip().splitlines() for template in line.split("|")]
    assert list(TEMPLATES["mote28"]) == written_out and len(set(written_out)) == 28


def test_every_template_holds_the_name_once_and_none_comes_twice() -> None:
    for name, templates in TEMPLATES.items():
        holes = [[template.count(hole) for hole in HOLES] for template in templates]
        assert all(0 < sum(each) <= 2 and max(each) == 1 and sum(each[1:]) <= 1 for each in holes), name
        assert kinds(templates) or all(each[0] for each in holes), name
        assert len(set(templates)) == len(templates), name
    assert len(TEMPLATES["actionclip16"]) == 16 and len(TEMPLATES["vidprism20"]) == 20


def test_names_go_into_the_prompts_unchanged() -> None:
    assert prompts("bike", ["ApplyEyeMakeup"]) == [["This is a video about ApplyEyeMakeup"]]
    assert prompts("name", ["{odd} name", "b"]) == [["{odd} name"], ["b"]]
    assert prompts("msta", ["brush_hair"]) == [["a video of brush_hair."]]


def test_only_vificlip_makes_spaces_of_underscores() -> None:
    assert prompts("vifi", ["brush_hair"]) == [["a photo of a brush hair."]]


def test_an_unknown_name_is_answered_with_the_closest() -> None:
    with pytest.raises(UserError, match="did you mean 'mote28'"):
        prompts("mote82", ["a"])


def test_a_prompt_beyond_77_tokens_is_cut_and_keeps_its_end() -> None:
    tokenizer = _tokenizer(backbone("ViT-B-16"))
    ((long,),) = prompts("text4vis", [" ".join(["juggling"] * 100)])
    short_N, long_N = tokenizer(["juggling", long])
    end = int(short_N.max())
    assert long_N.shape == (77,) and int(long_N[-1]) == end and int((long_N == end).sum()) == 1
