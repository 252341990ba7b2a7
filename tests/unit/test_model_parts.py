"""Initialisation, blocks, patches and the DINOv2 tokenizer."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from tiny_models import DINO, TRANSFORMER, model_of, uplvsm
from torch import nn

from novelview.config.models import TransformerConfig
from novelview.errors import CheckpointError
from novelview.models.dinov2 import DinoVisionTransformer, load_dino, resize_pos_embed, sincos_table
from novelview.models.layers import Block, Patchify, RMSNorm, unpatchify


@pytest.mark.parametrize("blocks", ["transformer_encoder", "transformer_decoder", "estimator.transformer_estimator"])
@pytest.mark.parametrize("gain", [1.0, 5.0])
def test_initial_deviations(blocks: str, gain: float) -> None:
    wide = TransformerConfig(d=128, d_head=64, init_gain=gain)
    model = uplvsm(transformer=wide, dino=dataclasses.replace(DINO, embed_dim=128))
    stack = model.get_submodule(blocks)
    for index, block in enumerate(stack.children()):
        depth = 1.0 if blocks.startswith("estimator") else math.sqrt(2 * (index + 1))
        for layer in (module for module in block.modules() if isinstance(module, nn.Linear)):
            assert layer.weight.std().item() == pytest.approx(gain * 0.02 / depth, rel=0.05)
    for name in ("target_pose_tokenizer.1", "canonical_pose_tokenizer.1", "image_token_decoder.1"):
        weight = model.get_parameter(f"{name}.weight")
        assert weight.std().item() == pytest.approx(gain * 0.02, rel=0.05)
    assert model.n_light_field_latent.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(("special", "depth", "expected"), [(True, False, 0.02 / math.sqrt(4)), (False, True, 0.02)])
def test_other_initialisations(special: bool, depth: bool, expected: float) -> None:
    wide = TransformerConfig(d=128, d_head=64, special_init=special, depth_init=depth)
    model = model_of("ptlvsm", transformer=wide, dino=dataclasses.replace(DINO, embed_dim=128))
    for index in range(2):
        weight = model.get_parameter(f"transformer_blocks.{index}.mlp.mlp.0.weight")
        assert weight.std().item() == pytest.approx(expected, rel=0.05)


@torch.no_grad()
def test_explicit_attention_weights_give_the_fused_result() -> None:
    torch.manual_seed(0)
    block, x = Block(TRANSFORMER), torch.randn(2, 7, 32)
    q, k, values = block.attn.projected(x)
    weights = (q @ k.mT * 16**-0.5).softmax(-1)
    torch.testing.assert_close(block.attn(x), block.attn.fc((weights @ values).transpose(1, 2).flatten(2)))
    torch.testing.assert_close(block.attn.weights(x), weights.mean(1))


def test_rms_norm_is_computed_in_float32() -> None:
    norm, x = RMSNorm(64, 1e-3), torch.full((1, 64), 300.0, dtype=torch.float16)
    assert norm(x).dtype == torch.float16, "300^2 overflows float16"
    torch.testing.assert_close(norm(x), torch.ones(1, 64, dtype=torch.float16))


def test_patches_are_rows_of_row_column_channel() -> None:
    images = torch.rand(2, 3, 6, 4)
    patches = Patchify(2)(images)
    assert patches.shape == (2, 6, 12)
    torch.testing.assert_close(patches[0, 3], images[0, :, 2:4, 2:4].permute(1, 2, 0).flatten())
    assert torch.equal(unpatchify(patches, 2, 6, 4), images)


@pytest.mark.parametrize("depth", [0, 2])
def test_dino_of_any_depth_gives_one_token_a_patch(depth: int) -> None:
    vit = DinoVisionTransformer(dataclasses.replace(DINO, depth=depth))
    assert vit(torch.rand(2, 3, 28, 56)).shape == (2, 8, 32)


def test_the_position_table_is_kept_at_its_own_grid_and_resized_elsewhere() -> None:
    table = torch.randn(1, 26, 8, generator=torch.Generator().manual_seed(0))
    assert resize_pos_embed(table, 5, 5, True) is table
    for rows, columns in ((4, 4), (1, 25), (7, 3)):
        resized = resize_pos_embed(table, rows, columns, True)
        assert resized.shape == (1, 1 + rows * columns, 8)
        assert torch.equal(resized[:, 0], table[:, 0])
    constant = resize_pos_embed(torch.ones(1, 26, 8), 3, 8, True)
    torch.testing.assert_close(constant, torch.ones(1, 25, 8))


def test_sincos_positions_tell_rows_from_columns() -> None:
    vit = DinoVisionTransformer(dataclasses.replace(DINO, pos_init="sincos"))
    table = sincos_table(5, 32)
    torch.testing.assert_close(vit.pos_embed[0, 1:], 0.2 * table)
    grid = table.view(5, 5, 32)
    torch.testing.assert_close(grid[2, :, :16], grid[2, :1, :16].expand(5, 16))
    torch.testing.assert_close(grid[:, 2, 16:], grid[:1, 2, 16:].expand(5, 16))
    assert torch.cdist(table, table).fill_diagonal_(9).min() > 0.1


def test_dino_takes_public_weights_and_keeps_the_grafted_norms(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = DinoVisionTransformer(dataclasses.replace(DINO, qk_norm=False))
    torch.save({**source.state_dict(), "mask_token": torch.zeros(1, 32)}, tmp_path / "dino.pth")
    model = model_of("ptlvsm", dino=dataclasses.replace(DINO, weights=str(tmp_path / "dino.pth")))
    loaded = model.get_submodule("image_tokenizer.1.dino_vit").state_dict()
    for key, value in source.state_dict().items():
        assert torch.equal(loaded[key], value), key
    assert torch.equal(loaded["blocks.0.attn.q_norm.weight"], torch.ones(16))


def test_dino_refuses_what_is_missing_or_does_not_fit(tmp_path: Path) -> None:
    vit = DinoVisionTransformer(DINO)
    with pytest.raises(CheckpointError, match=r"no such file.*model.dino.weights=null"):
        load_dino(vit, str(tmp_path / "absent.pth"))
    state = vit.state_dict()
    torch.save({key: value for key, value in state.items() if key != "norm.bias"}, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match=r"lacks the weight 'norm.bias'"):
        load_dino(vit, str(tmp_path / "short.pth"))
    torch.save({**state, "pos_embed": torch.zeros(1, 5, 32)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="pos_embed"):
        load_dino(vit, str(tmp_path / "other.pth"))
