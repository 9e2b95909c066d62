"""Places are found by pattern; what a block's bypass returns has the form of what the block returns."""

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

import retrograde as rg
from retrograde import sites
from retrograde.errors import BadType, UnknownName

diffusers = pytest.importorskip("diffusers")


def sd_like(**changes):
    options = {
        "sample_size": 16,
        "block_out_channels": (32, 32, 64),
        "layers_per_block": 2,
        "cross_attention_dim": 16,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    }
    return diffusers.UNet2DConditionModel(**options | changes)


def plain_unet():
    kinds = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16, 32), norm_num_groups=8, **kinds
    )


def dit():
    size = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "num_embeds_ada_norm": 10}
    return diffusers.DiTTransformer2DModel(
        in_channels=1, out_channels=1, sample_size=8, patch_size=2, norm_num_groups=1, **size
    )


def sd3():
    size = {"num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 16}
    more = {"caption_projection_dim": 16, "pooled_projection_dim": 8, "pos_embed_max_size": 8}
    return diffusers.SD3Transformer2DModel(sample_size=8, patch_size=2, in_channels=1, out_channels=1, **size, **more)


def flux():
    size = {"num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2}
    more = {"joint_attention_dim": 16, "pooled_projection_dim": 8, "axes_dims_rope": (4, 6, 6)}
    return diffusers.FluxTransformer2DModel(patch_size=1, in_channels=4, **size, **more)


INPUTS = {
    "sd": (sd_like, {"sample": (2, 4, 16, 16), "timestep": (), "encoder_hidden_states": (2, 5, 16)}),
    "unet2d": (plain_unet, {"sample": (2, 1, 8, 8), "timestep": ()}),
    "dit": (dit, {"hidden_states": (2, 1, 8, 8), "timestep": (2,), "class_labels": (2,)}),
    "sd3": (
        sd3,
        {"hidden_states": (2, 1, 8, 8), "timestep": (2,), "encoder_hidden_states": (2, 5, 16), "pooled_projections": (2, 8)},
    ),
    "flux": (
        flux,
        {
            "hidden_states": (2, 6, 4),
            "timestep": (2,),
            "encoder_hidden_states": (2, 5, 16),
            "pooled_projections": (2, 8),
            "img_ids": (6, 3),
            "txt_ids": (5, 3),
        },
    ),
}


def called(name):
    make, shapes = INPUTS[name]
    torch.manual_seed(0)
    net = make().eval()
    given = {k: torch.zeros(s).long() if k in ("class_labels", "timestep") else torch.randn(s) for k, s in shapes.items()}
    return net, given


def test_our_unet_has_blocks_attention_and_a_ladder(unet):
    places = sites.find(unet)
    assert places.ladder.makes == (("enter",), ("down.0.0",), ("shrink.0",), ("down.1.0",))
    assert places.ladder.takes == (("up.1.1",), ("up.1.0",), ("up.0.1", "grow.0"), ("up.0.0",))
    assert places.ladder.below(1) == ("shrink.0", "down.1.0", "middle", "up.0.0", "up.0.1", "grow.0")
    assert [block.name for block in places.blocks] == [
        "down.0.0",
        "down.1.0",
        "middle",
        "up.0.0",
        "up.0.1",
        "up.1.0",
        "up.1.1",
    ]
    assert set(places.attention) == {"down.1.0.attention", "middle.attention", "up.0.0.attention", "up.0.1.attention"}
    assert "4 rungs" in str(places)


@pytest.mark.parametrize("name", ["sd", "unet2d"])
def test_a_ladder_names_every_skip_connection_once_and_containers_gather(name):
    net, given = called(name)
    ladder = sites.find(net).ladder
    made = [site for part in ladder.makes for site in part]
    taken = [site for part in ladder.takes for site in part]
    assert len(set(made + taken)) == len(made + taken)
    order = []
    with torch.no_grad(), sites.opened(net, dict.fromkeys([*ladder.encoder, *ladder.decoder], lambda c: seen(order, c))):
        net(**given)
    assert order == [*ladder.encoder, *ladder.decoder]  # the order in which they run
    deep = ladder.gathered(ladder.below(0))
    assert "mid_block" in deep
    assert "up_blocks.0" in deep
    assert not any(site.startswith("up_blocks.0.") for site in deep)


def seen(order, call):
    order.append(call.site)
    return call.compute()


@pytest.mark.parametrize("name", list(INPUTS))
def test_a_block_left_out_answers_in_the_form_of_the_block(name):
    net, given = called(name)
    places = sites.find(net)
    assert places.blocks
    checked = []

    def both(block):
        def tap(call):
            made, instead = call.compute(), block.bypass(call)
            flat, form = tree_flatten(made)
            others, same = tree_flatten(instead)
            if None not in (made if isinstance(made, tuple) else (made,)):
                assert form == same
            pairs = zip(flat[::-1], others[::-1], strict=False)
            assert all(a.shape == b.shape for a, b in pairs if a is not None)  # the last block may drop the text
            checked.append(call.site)
            return instead

        return tap

    with torch.no_grad():
        expected = net(**given)
        with sites.opened(net, {block.name: both(block) for block in places.blocks}):
            left_out = net(**given)
    assert sorted(checked) == sorted(block.name for block in places.blocks)
    assert expected[0].shape == left_out[0].shape
    assert not torch.equal(expected[0], left_out[0])


@pytest.mark.parametrize(("name", "order"), [("sd3", (0, 1)), ("flux", (0, 1))])
def test_blocks_over_text_and_image_return_each_in_its_place(name, order):
    net, given = called(name)
    block = sites.find(net).chain[0]
    found = []

    def tap(call):
        found.append((call.compute(), block.bypass(call)))
        return found[-1][0]

    with torch.no_grad(), sites.opened(net, {block.name: tap}):
        net(**given)
    made, instead = found[0]
    assert [x.shape[1] for x in made] == [x.shape[1] for x in instead]
    assert made[0].shape[1] != made[1].shape[1]  # so a wrong order would show


def test_attention_of_itself_and_of_the_text_are_told_apart():
    places = sites.find(sd_like())
    assert places.attention
    assert all(name.endswith("attn1") for name in places.attention if "mid_block" not in name)
    assert len(places.cross) == len(places.attention)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(2, 2)
        self.body = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        for layer in self.body:
            x = layer(x)
        return self.stem(x)


def test_another_network_s_places_are_named_by_hand():
    net = Own()
    with pytest.raises(BadType, match="name its places"):
        sites.find(net)
    with pytest.raises(BadType, match="the network itself"):
        sites.find(lambda x: x)
    places = sites.Places(net, chain=sites.chain(net, ["body.0", "body.1"]))
    assert [block.name for block in places.need("chain")] == ["body.0", "body.1"]
    x = torch.randn(2, 2)
    with sites.opened(net, {"body.0": places.chain[0].bypass}):
        assert torch.equal(net(x, x), net.stem(net.body[1](x)))


def test_places_are_named_by_a_pattern():
    net = Own()
    chain = sites.chain(net, "body.*")
    assert [block.name for block in chain] == ["body.0", "body.1"]
    deep = nn.ModuleDict({"one": nn.ModuleList([Own() for _ in range(11)]), "two": Own()})
    assert sites.matching(deep, "one.*.stem") == tuple(f"one.{k}.stem" for k in range(11))  # in order, not by name
    assert sites.matching(deep, "one.1?.body.[1-9]") == ("one.10.body.1",)
    assert sites.matching(deep, "**.stem") == (*(f"one.{k}.stem" for k in range(11)), "two.stem")
    assert "two.body" in sites.matching(deep, "**")
    with pytest.raises(UnknownName, match="stem.*"):
        sites.matching(deep, "stem.*")
    with sites.opened(net, dict.fromkeys(sites.matching(net, "body.*"), lambda call: call.args[0])):
        x = torch.randn(2, 2)
        assert torch.equal(net(x, x), net.stem(x))


def test_compiled_networks_are_seen_through(unet):
    assert sites.find(torch.compile(unet, backend="eager")).network is unet
    assert tree_map(lambda x: x, sites.find(unet).attention) == sites.find(unet).attention
    assert isinstance(rg.nets.UNet, type)
