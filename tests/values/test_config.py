from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoconv.config import Config
from autoconv.errors import ConfigError

DENSE = Config("dense", {"BLOCK_L": 128, "BLOCK_CO": 64, "BLOCK_R": 16}, num_warps=8, num_stages=3)

powers = st.integers(0, 10).map(lambda exponent: 1 << exponent)
tiles = st.dictionaries(st.sampled_from(["BLOCK_CO", "BLOCK_L", "BLOCK_R", "BLOCK_M"]), powers)
configs = st.builds(
    lambda kernel, blocks, group, warps, stages: Config(
        kernel, {**blocks, "GROUP": group}, num_warps=warps, num_stages=stages
    ),
    st.sampled_from(["dense", "im2col_rows"]),
    tiles,
    st.integers(1, 12),
    st.sampled_from([1, 2, 4, 8, 16, 32]),
    st.integers(1, 8),
)


@given(configs)
def test_configs_survive_json_documents_and_pickle(config):
    assert Config.from_json(config.kernel, json.loads(json.dumps(config.to_json()))) == config
    assert Config.from_document(json.loads(json.dumps(config.document()))) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(pickle.loads(pickle.dumps(config))) == hash(config)


@given(configs, configs)
def test_text_and_equality_agree(one, other):
    assert (str(one) == str(other)) == (one == other)
    if one == other:
        assert hash(one) == hash(other)


def test_order_of_tiles_does_not_matter():
    turned = Config("dense", {"BLOCK_R": 16, "BLOCK_CO": 64, "BLOCK_L": 128}, num_warps=8, num_stages=3)
    assert turned == DENSE
    assert hash(turned) == hash(DENSE)
    assert list(turned.meta) == list(DENSE.meta)


def test_forms_of_a_config():
    assert str(DENSE) == "dense[BLOCK_CO=64 BLOCK_L=128 BLOCK_R=16 num_warps=8 num_stages=3]"
    assert DENSE.meta == {"BLOCK_CO": 64, "BLOCK_L": 128, "BLOCK_R": 16}
    assert DENSE.to_json() == {**DENSE.meta, "num_warps": 8, "num_stages": 3}
    assert DENSE.document() == {"kernel": "dense", **DENSE.to_json()}


def test_callers_cannot_change_the_tiles():
    mine = {"BLOCK_L": 64}
    config = Config("dense", mine, num_warps=4, num_stages=2)
    mine["BLOCK_L"] = 32
    config.meta["BLOCK_L"] = 16
    with pytest.raises(TypeError):
        config.tiles["BLOCK_L"] = 8
    assert config.tiles["BLOCK_L"] == 64


FLAT = {"BLOCK_L": 64, "num_warps": 4, "num_stages": 2}
IMPOSSIBLE = [
    ({"BLOCK_L": 48}, "BLOCK_L=48: must be a power of two; give 32 or 64"),
    ({"BLOCK_L": 0}, "BLOCK_L=0: must be at least 1; give a positive BLOCK_L"),
    ({"BLOCK_L": 64.0}, "BLOCK_L=64.0: must be a whole number, not float; give BLOCK_L as a number"),
    ({"BLOCK_L": True}, "BLOCK_L=True: must be a whole number, not bool; give BLOCK_L as a number"),
    ({"block_l": 64}, "block_l=64: is not a tile's name; name tiles in capitals, such as BLOCK_L"),
    (
        {"num_warp": 4},
        "num_warp=4: is not a tile's name, did you mean num_warps?; name tiles in capitals, such as BLOCK_L",
    ),
    ({"num_warps": 3}, "num_warps=3: must be a power of two up to 32; give 1, 2, 4, 8, 16 or 32"),
    ({"num_warps": 64}, "num_warps=64: must be a power of two up to 32; give 1, 2, 4, 8, 16 or 32"),
    ({"num_warps": "4"}, "num_warps=4: must be a whole number, not str; give num_warps as a number"),
    ({"num_stages": 0}, "num_stages=0: must be at least 1; give a positive num_stages"),
]


@pytest.mark.parametrize(("fields", "message"), IMPOSSIBLE)
def test_impossible_fields_are_named_with_value_and_remedy(fields, message):
    with pytest.raises(ConfigError) as caught:
        Config.from_json("dense", {**FLAT, **fields})
    assert str(caught.value) == f"config: {message}"


@pytest.mark.parametrize("missing", ["num_warps", "num_stages"])
def test_missing_counts_are_named(missing):
    numbers = {name: value for name, value in FLAT.items() if name != missing}
    with pytest.raises(ConfigError, match=f"^config: {missing}: is missing; add {missing}$"):
        Config.from_json("dense", numbers)


@pytest.mark.parametrize("document", [FLAT, [], None])
def test_document_without_a_kernel(document):
    with pytest.raises(ConfigError, match=r"^config: kernel: is missing; add the kernel's name"):
        Config.from_document(document)


@pytest.mark.parametrize("kernel", ["", "two words", 3])
def test_kernel_must_be_a_name(kernel):
    with pytest.raises(ConfigError, match=r"^config: kernel=.*is not a kernel's name"):
        Config.from_document({"kernel": kernel, **FLAT})


def test_numbers_must_be_a_mapping():
    with pytest.raises(ConfigError, match=r"^config: config=\[1\]: must map names to numbers"):
        Config.from_json("dense", [1])
    with pytest.raises(ConfigError, match=r"^config: tiles=\[1\]: must map names to sizes"):
        Config("dense", [1], num_warps=4, num_stages=2)


def test_tiles_other_than_blocks_need_not_be_powers_of_two():
    assert Config("dense", {"GROUP": 3}, num_warps=1, num_stages=1).meta == {"GROUP": 3}
