"""Loading of checkpoints with the parameter names of every published family of transformers.

The tests make small files: they rename the weights of a random timm network as the family names
them. Loading such a file must give the same network again.
"""

import argparse
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from workflow_scripts.maskdistill.discovery.published_weights import fitting_backbone
from workflow_scripts.maskdistill.discovery.timm_models import build_network
from workflow_scripts.maskdistill.discovery.vit import Backbone
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.torch_tools.resnet import build_resnet

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64}
DINO = ("vit_small_patch16_224.dino", SMALL)
DINOV2 = ("vit_small_patch14_dinov2", {**SMALL, "img_size": 70})
DINOV2_REGISTERS = ("vit_small_patch14_reg4_dinov2", {**SMALL, "img_size": 70})
DINOV2_SWIGLU = ("vit_giant_patch14_reg4_dinov2", {**SMALL, "img_size": 70})
DINOV3 = ("vit_small_patch16_dinov3", {**SMALL, "num_heads": 3})
DINOV3_BIASES = ("vit_small_patch16_dinov3_qkvb", {**SMALL, "num_heads": 3})
DINOV3_SWIGLU = ("vit_small_plus_patch16_dinov3", {**SMALL, "num_heads": 3})


def network(name, options, seed=0):
    """A network of timm with random values in all its parameters."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=0, dynamic_img_size=True, **options).eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def renamed(state, *replacements):
    """Rename the state's entries by regular expressions, which are applied one after another."""
    result = {}
    for name, value in state.items():
        for pattern, replacement in replacements:
            name = re.sub(pattern, replacement, name)
        result[name] = value
    return result


def of_meta_dinov2(model):
    state = renamed(model.state_dict())
    if model.num_reg_tokens:
        of_cls = torch.randn(1, 1, 48)
        state["register_tokens"] = state.pop("reg_token")
        state["cls_token"] = state["cls_token"] - of_cls
        state["pos_embed"] = torch.cat([of_cls, state["pos_embed"]], dim=1)
    if "glu" in type(model.blocks[0].mlp).__name__.lower():
        state = renamed(state, (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3"))
    return {**state, "mask_token": torch.zeros(1, 48)}


def of_meta_dinov3(model):
    state = renamed(
        model.state_dict(),
        (r"\.gamma_([12])", r".ls\1.gamma"),
        ("reg_token", "storage_tokens"),
        (r"mlp\.fc1_g", "mlp.w1"),
        (r"mlp\.fc1_x", "mlp.w2"),
    )
    if "blocks.0.mlp.w1.weight" in state:
        state = renamed(state, (r"mlp\.fc2", "mlp.w3"))
    for number in range(2):
        attention = f"blocks.{number}.attn."
        zeros = torch.zeros(48)
        query = state.pop(f"{attention}q_bias", zeros)
        value = state.pop(f"{attention}v_bias", zeros)
        state[f"{attention}qkv.bias"] = torch.cat([query, zeros, value])
        state[f"{attention}qkv.bias_mask"] = torch.cat([zeros + 1, zeros, zeros + 1])
    return {**state, "mask_token": torch.zeros(1, 48), "rope_embed.periods": torch.ones(4)}


def split_attention(state, query, key, value, *, key_bias=True):
    """Split each `qkv` matrix into three, with the given names of query, key and value."""
    result = {}
    for name, joined in state.items():
        found = re.fullmatch(r"(.*)qkv\.(weight|bias)", name)
        if found is None:
            result[name] = joined
            continue
        for part, values in zip((query, key, value), joined.chunk(3), strict=True):
            if found[2] == "weight" or key_bias or part != key:
                result[f"{found[1]}{part}.{found[2]}"] = values.clone()
    return result


EMBEDDINGS = (
    (r"^(cls_token|mask_token|register_tokens)", r"embeddings.\1"),
    ("^pos_embed", "embeddings.position_embeddings"),
)


def of_transformers_dinov2(model):
    state = split_attention(
        of_meta_dinov2(model), "attention.query", "attention.key", "attention.value"
    )
    return renamed(
        state,
        *EMBEDDINGS,
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^blocks\.", "encoder.layer."),
        (r"\.attn\.proj", ".attention.output.dense"),
        (r"\.attn\.", ".attention."),
        (r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1"),
        (r"mlp\.w12", "mlp.weights_in"),
        (r"mlp\.w3", "mlp.weights_out"),
        (r"^norm\.", "layernorm."),
    )


def of_transformers_dinov3(model):
    state = of_meta_dinov3(model)
    state = {name: v for name, v in state.items() if not re.search("bias_mask|periods", name)}
    state = split_attention(state, "q_proj", "k_proj", "v_proj", key_bias=False)
    gated = "blocks.0.mlp.w1.weight" in state
    return renamed(
        state,
        (r"^storage_tokens", "register_tokens"),
        *EMBEDDINGS,
        (r"^patch_embed\.proj", "embeddings.patch_embeddings"),
        (r"^blocks\.", "layer."),
        (r"\.attn\.proj", ".attention.o_proj"),
        (r"\.attn\.", ".attention."),
        (r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1"),
        (r"mlp\.(w1)\b", "mlp.gate_proj"),
        (r"mlp\.w2\b" if gated else r"mlp\.fc1", "mlp.up_proj"),
        (r"mlp\.w3\b" if gated else r"mlp\.fc2", "mlp.down_proj"),
    )


def of_transformers_dino(model):
    state = split_attention(
        model.state_dict(), "attention.query", "attention.key", "attention.value"
    )
    state = renamed(
        state,
        *EMBEDDINGS,
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^blocks\.", "encoder.layer."),
        (r"\.attn\.proj", ".attention.output.dense"),
        (r"\.attn\.", ".attention."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.mlp\.fc1", ".intermediate.dense"),
        (r"\.mlp\.fc2", ".output.dense"),
        (r"^norm\.", "layernorm."),
    )
    return {**state, "pooler.dense.weight": torch.ones(48, 48), "pooler.dense.bias": torch.ones(48)}


def of_dino_training(model):
    """The checkpoint of a DINO training, with teacher, student and their heads."""
    heads = {"head.mlp.0.weight": torch.ones(8, 48), "head.last_layer.weight_g": torch.ones(3, 1)}
    teacher = {f"backbone.{name}": v for name, v in model.state_dict().items()} | heads
    student = {f"module.{name}": torch.zeros_like(v) for name, v in teacher.items()}
    return {"teacher": teacher, "student": student, "args": argparse.Namespace(arch="vit_small")}


def of_mae(model):
    decoder = {
        "mask_token": torch.ones(1, 1, 32),
        "decoder_pos_embed": torch.ones(1, 17, 32),
        "decoder_embed.weight": torch.ones(32, 48),
        "decoder_blocks.0.attn.qkv.weight": torch.ones(96, 32),
        "decoder_pred.bias": torch.ones(9),
    }
    return {"model": model.state_dict() | decoder}


def of_ibot(model):
    return {"state_dict": model.state_dict() | {"masked_embed": torch.zeros(1, 48)}, "epoch": 800}


def of_moco_v3(model):
    state = {f"module.base_encoder.{n}": v for n, v in model.state_dict().items()}
    state |= {"module.base_encoder.head.0.weight": torch.ones(8, 48)}
    state |= {f"module.momentum_encoder.{n}": v * 0 for n, v in model.state_dict().items()}
    return {"state_dict": state | {"module.predictor.0.weight": torch.ones(8, 8)}, "epoch": 300}


def of_clip(model):
    """A checkpoint with OpenAI's names, which also has the text encoder."""
    state = renamed(
        model.state_dict(),
        (r"^patch_embed\.proj", "conv1"),
        ("^norm_pre", "ln_pre"),
        (r"^norm\.", "ln_post."),
        (r"^blocks\.", "transformer.resblocks."),
        (r"\.norm([12])\.", r".ln_\1."),
        (r"attn\.qkv\.", "attn.in_proj_"),
        (r"attn\.proj\.", "attn.out_proj."),
        (r"mlp\.fc1", "mlp.c_fc"),
        (r"mlp\.fc2", "mlp.c_proj"),
    )
    state["class_embedding"] = state.pop("cls_token")[0, 0]
    state["positional_embedding"] = state.pop("pos_embed")[0]
    state["proj"] = torch.ones(48, 16)
    text = {"token_embedding.weight": torch.ones(9, 16), "logit_scale": torch.ones(())}
    return {f"visual.{name}": value for name, value in state.items()} | text


PUBLISHED = {
    "DINO": (DINO, lambda model: model.state_dict()),
    "DINO, training": (DINO, of_dino_training),
    "DINO, transformers": (DINO, of_transformers_dino),
    "DINO, transformers with a head": (
        DINO,
        lambda model: (
            {f"vit.{n}": v for n, v in of_transformers_dino(model).items()}
            | {"classifier.weight": torch.ones(3, 48)}
        ),
    ),
    "DINOv2": (DINOV2, of_meta_dinov2),
    "DINOv2 with registers": (DINOV2_REGISTERS, of_meta_dinov2),
    "DINOv2 with SwiGLU": (DINOV2_SWIGLU, of_meta_dinov2),
    "DINOv2, transformers": (DINOV2, of_transformers_dinov2),
    "DINOv2 with registers, transformers": (DINOV2_REGISTERS, of_transformers_dinov2),
    "DINOv2 with SwiGLU, transformers": (DINOV2_SWIGLU, of_transformers_dinov2),
    "DINOv2 with registers, transformers with a head": (
        DINOV2_REGISTERS,
        lambda model: {
            f"dinov2_with_registers.{n}": v for n, v in of_transformers_dinov2(model).items()
        },
    ),
    "DINOv3": (DINOV3, of_meta_dinov3),
    "DINOv3 with biases": (DINOV3_BIASES, of_meta_dinov3),
    "DINOv3 with SwiGLU": (DINOV3_SWIGLU, of_meta_dinov3),
    "DINOv3, transformers": (DINOV3, of_transformers_dinov3),
    "DINOv3 with biases, transformers": (DINOV3_BIASES, of_transformers_dinov3),
    "DINOv3 with SwiGLU, transformers": (DINOV3_SWIGLU, of_transformers_dinov3),
    "MAE": (("vit_base_patch16_224.mae", SMALL), of_mae),
    "CLIP": (("vit_base_patch16_clip_224.openai", SMALL), of_clip),
    "iBOT": (("vit_small_patch16_224.ibot", SMALL), of_ibot),
    "MoCo-v3": (("vit_small_patch16_224.mocov3", {**SMALL, "num_heads": 12}), of_moco_v3),
}


@pytest.mark.parametrize("title", PUBLISHED)
def test_a_published_file_gives_the_network_that_it_was_made_of(tmp_path, title):
    (name, options), publish = PUBLISHED[title]
    # timm does not know the trainings iBOT and MoCo-v3, but it knows their architecture.
    architecture = name.partition(".")[0] if name.endswith((".ibot", ".mocov3")) else name
    model = network(architecture, options)
    torch.save(publish(model), tmp_path / "weights.pth")

    loaded = build_network(
        name,
        options=options,
        weights=tmp_path / "weights.pth",
        dynamic_img_size=True,
        global_pool="token",
    )

    expected = model.state_dict()
    found = loaded.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: (
            {f"module.encoder_q.{n}": v for n, v in state.items()}
            | {"module.encoder_q.fc.weight": torch.ones(8, 512), "module.queue": torch.ones(8, 4)}
        ),
        lambda state: (
            {f"module.encoder_q.{n}": v for n, v in state.items()}
            | {"module.encoder_q.fc.0.weight": torch.ones(8, 8), "module.queue_ptr": torch.zeros(1)}
        ),
        lambda state: (
            {f"module.base_encoder.{n}": v for n, v in state.items()}
            | {"module.base_encoder.fc.0.weight": torch.ones(8, 8)}
            | {"module.predictor.0.weight": torch.ones(8, 8)}
        ),
    ],
    ids=["v1", "v2", "v3"],
)
def test_resnets_of_moco(tmp_path, wrap):
    model = build_resnet(18)
    torch.save({"state_dict": wrap(model.state_dict()), "arch": "resnet18"}, tmp_path / "moco.tar")

    loaded = build_resnet(18, weights=tmp_path / "moco.tar")

    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_the_heads_of_moco_v3_s_small_transformer_are_its_own(tmp_path):
    """MoCo-v3 has 12 heads of 32 channels, timm's model 6 of 64; weights do not show this."""
    options = {"depth": 1, "img_size": 32}
    weights = timm.create_model("vit_small_patch16_224", num_classes=0, **options).state_dict()
    save_file(weights, tmp_path / "weights.safetensors")

    ours = Backbone(
        "vit_small_patch16_224.mocov3", options=options, weights=tmp_path / "weights.safetensors"
    )

    assert ours.model.blocks[0].attn.num_heads == 12
    assert ours.mean.flatten().tolist() == pytest.approx(timm.data.IMAGENET_DEFAULT_MEAN)


def test_whose_statistics_a_name_without_a_training_gets_is_said(tmp_path, capsys):
    options = {"depth": 1, "img_size": 32}
    name = "vit_tiny_patch16_224"
    weights = timm.create_model(name, num_classes=0, **options).state_dict()
    save_file(weights, tmp_path / "weights.safetensors")

    plain = Backbone(name, options=options, weights=tmp_path / "weights.safetensors")
    assert f"as for timm's {name}.augreg_in21k_ft_in1k" in capsys.readouterr().out
    assert plain.mean.flatten().tolist() == [0.5, 0.5, 0.5]

    own = {**options, "pretrained_cfg_overlay": {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}}
    overridden = Backbone(
        f"{name}.augreg_in21k", options=own, weights=tmp_path / "weights.safetensors"
    )
    assert capsys.readouterr().out == ""
    assert overridden.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert overridden.std.flatten().tolist() == [1, 2, 3]


def test_positions_of_another_grid_are_taken_over(tmp_path, capsys):
    name, options = DINO
    model = network(name, options)  # 4 x 4 patches
    save_file(model.state_dict(), tmp_path / "weights.safetensors")

    backbone = Backbone(
        name, options={**options, "img_size": 224}, weights=tmp_path / "weights.safetensors"
    )

    assert torch.equal(backbone.model.pos_embed, model.pos_embed)
    assert "input size set to 64 x 64 px, as in this file" in capsys.readouterr().out
    pixels = torch.randn(1, 3, 48, 80)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.model(pixels), model(pixels))


def without_values(name):
    """The names and shapes of a timm network's weights, on the device meta (no values)."""
    options = {} if "dinov3" in name else {"weight_init": "skip"}
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0, **options).state_dict()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_small_patch14_dinov2", "vit_small_patch14_dinov2.lvd142m"),
        ("vit_base_patch14_reg4_dinov2", "vit_base_patch14_reg4_dinov2.lvd142m"),
        ("vit_giant_patch14_dinov2", "vit_giant_patch14_dinov2.lvd142m"),
        ("vit_small_patch16_dinov3", "vit_small_patch16_dinov3.lvd1689m"),
        ("vit_small_plus_patch16_dinov3", "vit_small_plus_patch16_dinov3.lvd1689m"),
        ("vit_base_patch16_clip_224", "vit_base_patch16_clip_224"),
        ("vit_base_patch8_224", "vit_base_patch8_224"),
    ],
)
def test_the_backbone_that_weights_fit(name, expected):
    assert fitting_backbone(without_values(name)) == expected


def test_an_error_names_the_backbone_that_fits(tmp_path):
    # The file is small, because all elements of a tensor are the same value in memory.
    state = {
        name: torch.zeros(1, dtype=value.dtype).expand(value.shape)
        for name, value in without_values("vit_small_patch14_reg4_dinov2").items()
    }
    torch.save(state, tmp_path / "weights.pth")

    with pytest.raises(InputError) as error:
        Backbone("vit_small_patch16_224.dino", weights=tmp_path / "weights.pth")

    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'weights.pth'}: these weights are of another network than")
    assert "patch size 14 instead of 16" in text
    assert "registers 4 instead of 0" in text
    assert "set features.backbone: vit_small_patch14_reg4_dinov2.lvd142m," in text
    assert "\n" not in text


def test_biases_that_the_backbone_lacks_are_not_dropped(tmp_path):
    name, options = DINOV3_BIASES
    torch.save(of_meta_dinov3(network(name, options)), tmp_path / "weights.pth")

    with pytest.raises(InputError, match="query biases yes instead of no"):
        Backbone(DINOV3[0], options=options, weights=tmp_path / "weights.pth")


def test_without_a_file_nothing_is_asked_for(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))

    with pytest.raises(InputError, match=r"embedding.weights is not set; .*fetch_weights"):
        build_network("resnet18.a1_in1k", setting="embedding")
