"""The zoo: every network at its published size, what stands before and behind it, and that it can be built again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detect.classify.settings import ClassifierSettings
from detect.errors import BundleError, ConfigError

torch = pytest.importorskip("torch", reason="torch is not installed")
from safetensors.torch import save_file  # noqa: E402

from detect.classify import answerers  # noqa: E402
from detect.classify.export import write_graph  # noqa: E402
from detect.classify.fuzzy import FuzzyHead  # noqa: E402
from detect.classify.networks import NETWORKS, build  # noqa: E402
from detect.classify.networks.gru import CnnGru  # noqa: E402
from detect.classify.networks.parts import OrthogonalHead, StainDeconvolution  # noqa: E402
from detect.classify.networks.quaternion import QuaternionConv  # noqa: E402
from detect.runtime.base import EngineSettings, installed, open_graph  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

LIGHT = {
    "lenet",
    "cnn-gru",
    "qcresnet",
    "attention-cnn",
    "squeezenet",
    "shufflenet-v2",
    "mobilenet-v3-small",
    "vit-tiny",
}
HEAVY = {"vgg16", "vgg19", "nasnet", "inception-resnet-v2", "resnet101", "darknet53", "alexnet", "densenet161"}


def crops(n: int, side: int, seed: int = 1) -> torch.Tensor:
    """Noise."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_its_published_size(name: str) -> None:
    row = NETWORKS[name]
    model = build(name, row.types, 224 if row.sized else max(96, row.least))
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    if row.published is not None:
        assert parameters == pytest.approx(row.published, rel=0.02)
    assert 0.05 < parameters < 150


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in HEAVY])
def test_every_network_answers_for_the_smallest_and_another_size(name: str) -> None:
    for side in (max(NETWORKS[name].least, 32), 112):
        model = build(name, 5, side).eval()
        with torch.inference_mode():
            scores = model(crops(2, side))
            assert model.features(crops(2, side)).shape == (2, model.num_features)
        assert scores.shape == (2, 5)
        assert torch.isfinite(scores).all()


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in LIGHT else pytest.mark.long) for n in NETWORKS])
def test_every_network_is_a_graph(tmp_path: Path, name: str) -> None:
    """For pictures whose sides no pooling divides; several crops a call; the answers of torch."""
    row = NETWORKS[name]
    side = max(80, row.least) if not row.sized else 96
    torch.manual_seed(2)
    model = build(name, 5, side).eval()
    about = {"kind": "network", "name": name, "types": 5, "image_size": side, "head": "linear", "first": "none"}
    write_graph(model, about, side, tmp_path / "g.onnx")
    with torch.inference_mode():
        expected = model(crops(3, side)).numpy()
    for engine in installed():
        (got,) = open_graph(tmp_path / "g.onnx", EngineSettings(engine)).run(crops(3, side).numpy())
        assert np.abs(got - expected).max() < 1e-3 * max(1.0, np.abs(expected).max())


def test_pictures_that_are_too_small_and_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs 75 pixels"):
        build("inception-v3", 4, 64, where="c.yaml")
    with pytest.raises(ConfigError, match="no network 'resnet-18'"):
        build("resnet-18", 4, 64)


@pytest.mark.parametrize("head", ["linear", "orthogonal", "fuzzy"])
@pytest.mark.parametrize("first", ["none", "stain"])
def test_built_again_from_its_weights(tmp_path: Path, head: str, first: str) -> None:
    model = build("smallnet", 4, 48, head=head, first=first, dropout=0.3).eval()
    about = {"kind": "network", "name": "smallnet", "types": 4, "image_size": 48, "head": head, "first": first}
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "w.safetensors")
    again = answerers.rebuild(about, tmp_path / "w.safetensors")
    assert torch.equal(again(crops(3, 48)), model(crops(3, 48)))
    with pytest.raises(BundleError, match="do not fit"):
        answerers.rebuild(about | {"types": 5}, tmp_path / "w.safetensors")


def test_a_crop_and_its_quarter_turns_are_answered_together(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = build("smallnet", 4, 48, first="stain", turns=4).eval()
    once = build("smallnet", 4, 48, first="stain").eval()
    once.load_state_dict(model.state_dict())
    given = crops(3, 48)
    turned = [torch.rot90(given, k, (1, 2)).contiguous() for k in range(4)]
    expected = torch.stack([once.features(t) for t in turned]).mean(dim=0)
    assert torch.allclose(model.features(given), expected, atol=1e-6)
    for one in turned:  # whichever way up the slide lay
        assert torch.allclose(model(one), model(given), atol=1e-5)
    assert not torch.allclose(once(turned[1]), once(given), atol=1e-5)
    assert torch.allclose(model(given[1:2]), model(given)[1:2], atol=1e-6)
    model.train()
    assert len(model.features(given)) == 3
    model.eval()
    about = {"kind": "network", "name": "smallnet", "types": 4, "image_size": 48, "first": "stain", "turns": 4}
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "w.safetensors")
    assert torch.equal(answerers.rebuild(about, tmp_path / "w.safetensors")(given), model(given))
    write_graph(model, about, 48, tmp_path / "g.onnx")
    for engine in installed():
        (got,) = open_graph(tmp_path / "g.onnx", EngineSettings(engine)).run(given.numpy())
        assert np.abs(got - model(given).detach().numpy()).max() < 1e-3


def test_weights_that_a_user_has_are_taken_over(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(3)
    theirs = timm.create_model("resnet18", num_classes=1000)
    path = tmp_path / "resnet18.safetensors"
    save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, path)
    ours = build("resnet18", 4, 64, pretrained=str(path))
    assert torch.equal(ours.body.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    assert ours.head.weight.shape == (4, 512)
    own = tmp_path / "own.safetensors"
    save_file({k: v.contiguous() for k, v in ours.state_dict().items()}, own)
    more = build("resnet18", 7, 64, pretrained=str(own))
    assert torch.equal(more.body.conv1.weight, theirs.conv1.weight)
    for other in ("lenet", "resnet34"):
        with pytest.raises(ConfigError, match="of this network is in"):
            build(other, 4, 64, pretrained=str(path))
    (tmp_path / "w.pt").write_bytes(b"x")
    with pytest.raises(ConfigError, match="pickles run code"):
        build("resnet18", 4, 64, pretrained=str(tmp_path / "w.pt"))


def test_published_weights_of_torchvision_and_of_another_size_are_taken_over(tmp_path: Path) -> None:
    """Under their library's names; GoogLeNet's as its library answers with them; ViT's places resampled."""
    import timm
    import torchvision

    torch.manual_seed(4)
    squeeze = torchvision.models.squeezenet1_0(num_classes=7)
    save_file({k: v.contiguous() for k, v in squeeze.state_dict().items()}, tmp_path / "s.safetensors")
    ours = build("squeezenet", 4, 64, pretrained=str(tmp_path / "s.safetensors"))
    assert torch.equal(ours.body.features[0].weight, squeeze.features[0].weight)
    google = torchvision.models.googlenet(aux_logits=False, init_weights=False, transform_input=True).eval()
    save_file({k: v.contiguous() for k, v in google.state_dict().items()}, tmp_path / "g.safetensors")
    ours = build("googlenet", 4, 64, pretrained=str(tmp_path / "g.safetensors")).eval()
    pixels = crops(2, 64)
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    google.fc = torch.nn.Identity()
    with torch.inference_mode():
        theirs = google(((pixels / 255.0 - mean) / spread).permute(0, 3, 1, 2))
        assert torch.allclose(ours.features(pixels), theirs, atol=1e-4)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    save_file({k: v.contiguous() for k, v in vit.state_dict().items()}, tmp_path / "v.safetensors")
    assert torch.equal(
        build("vit-tiny", 4, 224, pretrained=str(tmp_path / "v.safetensors")).body.pos_embed, vit.pos_embed
    )
    small = build("vit-tiny", 4, 96, pretrained=str(tmp_path / "v.safetensors"))
    assert small.body.pos_embed.shape == (1, 37, 192)
    assert torch.equal(small.body.pos_embed[:, 0], vit.pos_embed[:, 0])
    assert 0.005 < float(small.body.pos_embed[:, 1:].std()) < 0.03


def separable(n: int, seed: int, side: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Two kinds of discs, purple and red, on a pale ground, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    y, x = np.mgrid[:side, :side]
    out = np.full((n, side, side, 3), 225.0)
    for i, kind in enumerate(labels):
        inside = np.hypot(x - side / 2 + rng.uniform(-4, 4), y - side / 2 + rng.uniform(-4, 4)) < rng.uniform(10, 16)
        out[i][inside] = (110, 60, 150) if kind else (190, 110, 120)
    out += rng.normal(0, 12, out.shape)
    return torch.from_numpy(np.clip(out, 0, 255).astype(np.uint8)), torch.from_numpy(labels)


@pytest.mark.parametrize(
    "made",
    [{"name": "cnn-gru"}, {"head": "orthogonal"}, {"first": "stain"}, {"head": "fuzzy"}, {"name": "attention-cnn"},
     {"name": "qcresnet"}, {"name": "squeeze-excite"}],
    ids=lambda m: "-".join(m.values()),
)  # fmt: skip
def test_what_is_ours_learns_what_can_be_told_apart(made: dict[str, str]) -> None:
    """Gradients reach every weight that learns, and a few steps tell two colours apart."""
    torch.manual_seed(1)
    given = {"name": "smallnet"} | made
    model = build(given.pop("name"), 2, 48, **given)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, 2e-3)
    for step in range(45):
        pixels, labels = separable(16, step)
        loss = torch.nn.functional.cross_entropy(model(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            reached = [p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in learning]
            assert all(reached)
            assert sum(bool(p.grad.abs().sum() > 0) for p in learning) > 0.9 * len(learning)
        optimizer.step()
    pixels, labels = separable(64, 999)
    with torch.inference_mode():
        assert (model.eval()(pixels).argmax(dim=1) == labels).float().mean() > 0.95


def test_no_feature_serves_two_types() -> None:
    head = OrthogonalHead(10, 3)
    weight = head.weight * head.mask
    product = weight @ weight.t()
    assert torch.equal(product, torch.diag(product.diagonal()))
    assert (head.mask.sum(dim=0) == 1).all()
    with pytest.raises(ValueError, match="cannot be dealt out"):
        OrthogonalHead(2, 3)


def test_the_first_layer_separates_the_stains_it_begins_with() -> None:
    """Pixels mixed from known amounts of haematoxylin and eosin come back as these amounts."""
    layer = StainDeconvolution()
    amounts = torch.rand(1, 3, 8, 8) * torch.tensor([0.8, 0.8, 0.1]).view(1, 3, 1, 1)
    density = torch.einsum("nshw,sc->nchw", amounts, layer.stains)
    pixels = 256 * torch.exp(-density) - 1
    assert torch.allclose(layer(pixels), amounts, atol=1e-4)


def test_a_quaternion_convolution_is_the_hamilton_product() -> None:
    """Of one filter on one pixel, against the product written out."""
    layer = QuaternionConv(4, 4, side=1)
    a = torch.randn(4)
    r, i, j, k = (p.detach().reshape(()) for p in layer.parts)
    w, x, y, z = a
    expected = torch.stack([
        r * w - i * x - j * y - k * z, i * w + r * x - k * y + j * z,
        j * w + k * x + r * y - i * z, k * w - j * x + i * y + r * z,
    ])  # fmt: skip
    assert torch.allclose(layer(a.view(1, 4, 1, 1)).flatten(), expected, atol=1e-6)
    assert sum(p.numel() for p in QuaternionConv(64, 64).parameters()) * 4 == 64 * 64 * 9
    with pytest.raises(ValueError, match="in fours"):
        QuaternionConv(3, 4)


def test_the_order_of_rows_matters_to_the_recurrent_layer() -> None:
    model = CnnGru().eval()
    picture = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        assert model(picture).shape == (1, model.num_features)
        assert not torch.allclose(model(picture), model(picture.flip(2)), atol=1e-4)


def test_fuzzy_rules_fire_to_one_and_the_nearest_most() -> None:
    head = FuzzyHead(torch.tensor([[0.0, 0.0], [10.0, 10.0]]), torch.ones(2, 2), torch.zeros(2, 3, 3))
    fires = head.fires(torch.tensor([[0.5, -0.5], [9.0, 10.0], [5.0, 5.0]]))
    assert torch.allclose(fires.sum(dim=1), torch.ones(3))
    assert fires[0, 0] > 0.99
    assert fires[1, 1] > 0.99
    assert torch.allclose(fires[2], torch.tensor([0.5, 0.5]), atol=1e-5)


def test_the_least_sizes_are_what_settings_allow() -> None:
    assert all(row.least >= ClassifierSettings.model_fields["image_size"].metadata[0].ge for row in NETWORKS.values())
