"""Each analysis where the answer can be worked out by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from layergraft.analysis.attention_maps import feature_attention
from layergraft.analysis.information import copula_normal, gaussian_information, principal_components
from layergraft.analysis.invariance import relative_change
from layergraft.analysis.layer_probe import layer_probe, ridge_scores
from layergraft.analysis.map import embed_plane, neighbourhood_kept
from layergraft.analysis.neighbours import nearest, neighbours
from layergraft.analysis.pca import principal_axes, to_colour
from layergraft.analysis.pictures import heat
from layergraft.analysis.reconstruct import predicted_patches, unpatchify
from layergraft.analysis.saliency import grad_cam, saliency, score_gradients
from layergraft.analysis.spectrum import amplitudes, radial_profile, relative_log
from layergraft.analysis.subject import NotApplicable, Subject, inputs
from layergraft.analysis.supervised_gradient import class_loss, layer_norms, supervised_gradient
from layergraft.analysis.token_similarity import token_cosine
from layergraft.analysis.uniformity import alignment, uniformity
from layergraft.config.encoder import EncoderConfig
from layergraft.config.objectives import DecoderConfig, MaeConfig
from layergraft.data.sources.open import open_source
from layergraft.data.thumbnails import address
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.objectives.mae import Mae
from layergraft.runs.findings import Findings


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    config = EncoderConfig(img_size=12, in_chans=1, patch_size=4, embed_dim=24, depth=2, num_heads=2)
    return create_encoder(config, 0).eval()


def test_alignment() -> None:
    x = noise(20, 5)
    assert alignment(x, 3 * x) < 1e-12
    assert abs(alignment(x, -x) - 4) < 1e-12
    assert abs(alignment(torch.eye(4), torch.eye(4).roll(1, 0)) - 2) < 1e-6


def test_uniformity() -> None:
    assert abs(uniformity(torch.ones(5, 3).double())) < 1e-12  # one point
    assert abs(uniformity(torch.eye(6).double()) + 4) < 1e-9  # every two at distance sqrt 2: log exp(-2 * 2)
    assert abs(uniformity(torch.tensor([[1.0, 0], [-1, 0]])) + 8) < 1e-6


def test_information_of_independent_variables_is_zero() -> None:
    def independent(seed: int) -> float:
        x, y = (copula_normal(noise(2000, 8, seed=own)) for own in (seed, seed + 50))
        return gaussian_information(x, y)

    values = [independent(seed) for seed in range(5)]
    assert abs(float(np.mean(values))) < 0.01


def test_information_of_a_correlated_pair() -> None:
    """-1/2 log2(1 - r^2) for two normals of correlation r, whatever monotone map they went through."""
    x, y = noise(20000, 1, seed=1), noise(20000, 1, seed=2)
    for r in (0.5, 0.9):
        mixed = r * x + math.sqrt(1 - r * r) * y
        value = gaussian_information(copula_normal(x.exp()), copula_normal(mixed**3))
        assert abs(value + 0.5 * math.log2(1 - r * r)) < 0.03


def test_principal_components_keep_what_varies() -> None:
    plane = noise(100, 2) @ noise(2, 10, seed=1)
    found = principal_components(plane, 5)
    assert found.shape == (100, 2)
    assert torch.allclose(torch.pdist(found), torch.pdist(plane), atol=1e-8)


def test_token_similarity() -> None:
    assert torch.allclose(token_cosine(torch.ones(2, 5, 3)), torch.ones(2).double())
    assert torch.allclose(token_cosine(torch.eye(4)[None]), torch.zeros(1).double(), atol=1e-12)
    pair = torch.tensor([[[1.0, 0.0], [1.0, math.sqrt(3)]]])  # 60 degrees
    assert torch.allclose(token_cosine(pair), torch.tensor([0.5]).double())


def test_spectrum_of_stripes() -> None:
    """Mean 2 and one wave of amplitude 1 at the highest frequency, which shares its ring with 17 empty entries."""
    stripes = 2 + torch.where(torch.arange(8) % 2 == 0, 1.0, -1.0).expand(8, 8)
    profile = dict(relative_log(radial_profile(amplitudes(stripes.reshape(1, 64, 1), (8, 8)), 4)))
    assert abs(profile[1.0] - math.log10(1 / 2 / 18)) < 1e-6
    assert profile[0.0] == 0
    assert profile[0.25] < -10
    assert profile[0.5] < -10


def test_spectrum_of_white_noise_is_flat() -> None:
    """Frequency 0 is real, the others complex: mean amplitudes sqrt(2/pi) and sqrt(pi)/2 of the same variance."""
    profile = relative_log(radial_profile(amplitudes(noise(400, 64, 16), (8, 8)), 4))
    step = math.log10(math.sqrt(math.pi) / 2 / math.sqrt(2 / math.pi))
    assert len(profile) == 5
    assert all(abs(value - step) < 0.02 for _, value in profile[1:])


def test_ridge_is_scikit_learns() -> None:
    train, test = noise(120, 6), noise(40, 6, seed=1)
    labels = torch.from_numpy(np.arange(120) % 3)
    train[torch.arange(120), labels] += 1.5
    scores, strength = ridge_scores(train, labels, test, 3)
    target = np.where(np.eye(3)[labels] > 0, 1.0, -1.0)
    centred = train - train.mean(0)
    unit = float(torch.linalg.svdvals(centred).square().mean())
    expected = Ridge(alpha=strength * unit).fit(train.numpy(), target).predict(test.numpy())
    assert np.abs(scores.numpy() - expected).max() < 1e-9


def test_leave_one_out_prefers_strength_where_features_are_noise() -> None:
    train, labels = noise(60, 50), torch.from_numpy(np.arange(60) % 2)
    train[torch.arange(60), labels] += 3
    assert ridge_scores(train, labels, train, 2)[1] >= 1e-2


def test_invariance() -> None:
    x = noise(200, 30)
    assert abs(relative_change(x, 2 * x)) < 1e-12
    assert abs(relative_change(x, noise(200, 30, seed=1)) - 1) < 0.05
    assert math.isnan(relative_change(torch.ones(5, 3).double(), torch.ones(5, 3).double()))


def test_attention_of_the_class_token(encoder: Encoder) -> None:
    attention = torch.zeros(1, 2, 10, 10)
    attention[:, :, 0, 0], attention[:, 0, 0, 1 + 4], attention[:, 1, 0, 1:] = 0.5, 0.5, 0.5 / 9
    found = feature_attention(encoder, attention)
    assert torch.equal(found[0, 0], torch.eye(9)[4])
    assert torch.allclose(found[0, 1], torch.full((9,), 1 / 9))


def test_grad_cam_by_hand() -> None:
    activations = torch.tensor([[[1.0, 2.0], [3.0, -1.0], [-2.0, -2.0]]])
    gradients = torch.tensor([[[1.0, 0.0], [3.0, 3.0], [2.0, 0.0]]])  # means 2 and 1
    assert torch.equal(grad_cam(activations, gradients), torch.tensor([[4.0, 5.0, 0.0]]))


@pytest.mark.parametrize("block", [0, 1])
def test_score_gradients_agree_with_a_difference(encoder: Encoder, block: int) -> None:
    images = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    directions = torch.randn(2, 24, generator=torch.Generator().manual_seed(1))
    tokens, gradient = score_gradients(encoder, images, directions, block)
    assert tokens.shape == gradient.shape == (2, 9, 24)
    before = encoder.run_blocks(encoder.tokens(images), 0, block)[0].double()
    own = encoder.double()

    def score(entry: float) -> float:
        moved = before.clone()
        moved[1, 1 + 3, 7] += entry
        feature = own.feature(own.norm(own.run_blocks(moved, block, block + 1)[0]))
        return float(torch.cosine_similarity(feature, directions.double(), dim=1).sum())

    difference = (score(1e-4) - score(-1e-4)) / 2e-4
    assert abs(float(gradient[1, 3, 7]) - difference) < 1e-4 * max(1.0, abs(difference))
    encoder.float()


def test_supervised_gradients_agree_with_a_difference() -> None:
    """Along its own gradient the loss of a layer changes by the square of the norm; other layers have other norms."""
    config = EncoderConfig(img_size=36, in_chans=1, patch_size=18, embed_dim=16, depth=2, num_heads=2)
    encoder = create_encoder(config, 0).double().eval()
    source = open_source("builtin:fashion-canvas?fraction=0.003")
    weights = noise(16, 10)
    norms = layer_norms(encoder, weights, source)
    images = torch.cat(list(inputs(encoder, source))).double()
    labels = torch.from_numpy(source.selected_labels)
    assert list(norms) == ["patch_embed", "positions", "tokens", "blocks.0", "blocks.1", "norm"]
    assert all(p.grad is None for p in encoder.parameters())
    for row in ("patch_embed", "blocks.0", "norm"):
        parameters = encoder.layers()[row]
        gradients = torch.autograd.grad(class_loss(encoder, weights, images, labels) / len(source), parameters)
        found = []
        for sign in (1, -1):
            moved = copy.deepcopy(encoder)
            for parameter, gradient in zip(moved.layers()[row], gradients, strict=True):
                parameter.data += sign * 1e-4 * gradient
            found.append(float(class_loss(moved, weights, images, labels).detach()) / len(source))
        gradient_norm, weight_norm, count = norms[row]
        assert (found[0] - found[1]) / 2e-4 == pytest.approx(gradient_norm**2, rel=1e-3)
        flat = torch.cat([parameter.detach().flatten() for parameter in parameters])
        assert (weight_norm, count) == (pytest.approx(float(flat.norm())), len(flat))


def test_principal_axes() -> None:
    x = noise(500, 1) * torch.tensor([[3.0, 4.0, 0.0]]) + 7
    mean, axes, shares = principal_axes(x, 2)
    assert torch.allclose(axes[0], torch.tensor([0.6, 0.8, 0.0]).double(), atol=1e-9)
    assert abs(float(shares[0]) - 1) < 1e-12
    assert torch.allclose(mean, x.mean(0))
    colours = to_colour(torch.linspace(0, 100, 101)[:, None].expand(-1, 3))
    assert torch.allclose(colours[50], torch.full((3,), 0.5), atol=1e-6)
    assert float(colours[0, 0]) == 0
    assert float(colours[100, 0]) == 1


def test_nearest() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [10.0, 10.0]])
    cosine, index = nearest(torch.tensor([[0.1, 2.0]]), bank, 2)
    assert index.tolist() == [[1, 2]]
    assert abs(float(cosine[0, 0]) - 2 / math.hypot(0.1, 2)) < 1e-6


def test_map_keeps_separate_groups_separate() -> None:
    groups = torch.cat([noise(30, 10, seed=s) * 0.1 + 10 * torch.eye(10).double()[s] for s in range(3)]).float().numpy()
    plane = embed_plane(groups)
    own = np.repeat(np.arange(3), 30)
    centres = np.stack([plane[own == g].mean(0) for g in range(3)])
    assert (np.linalg.norm(plane[:, None] - centres[None], axis=2).argmin(1) == own).all()
    assert np.array_equal(plane, embed_plane(groups))
    assert neighbourhood_kept(groups, groups) == 1
    assert neighbourhood_kept(groups, plane) > neighbourhood_kept(
        groups, np.random.default_rng(0).random((90, 2), np.float32)
    )


def test_unpatchify_is_the_inverse(encoder: Encoder) -> None:
    images = torch.randn(2, 1, 12, 12)
    assert torch.equal(unpatchify(encoder, encoder.patchify(images)), images)


def test_a_perfect_decoder_gives_the_image_back(encoder: Encoder) -> None:
    """A decoder that answers with the normalised patches, as the loss asks for."""
    images = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    patches = encoder.patchify(images)
    objective = Mae(MaeConfig(decoder=DecoderConfig(embed_dim=16, depth=1, num_heads=2)), encoder)
    answer = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()

    class Perfect(torch.nn.Module):
        def forward(self, latent: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
            assert latent.shape[:2] == (2, 1 + keep.shape[1])
            return answer

    objective.heads["decoder"] = Perfect()
    filled = predicted_patches(encoder, objective, images, torch.tensor([[0, 3], [5, 8]]))
    assert torch.allclose(unpatchify(encoder, filled), images, atol=1e-5)


def test_pictures() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    import base64

    import cv2

    content = np.frombuffer(base64.b64decode(address(image).partition("base64,")[2]), np.uint8)
    assert np.array_equal(cv2.imdecode(content, cv2.IMREAD_COLOR)[:, :, ::-1], image)
    assert address(np.zeros((300, 100, 1), np.uint8)).startswith("data:image/webp")
    hot = heat(torch.tensor([[1.0, 0.0]]), np.zeros((10, 20, 1), np.uint8), opacity=1.0)
    assert hot.shape == (10, 20, 3)
    assert hot[5, 0, 0] > 200 > hot[5, 19, 0]  # viridis ends in yellow, begins in violet


@pytest.mark.parametrize("analysis", [neighbours, saliency, layer_probe, supervised_gradient])
def test_an_empty_bank_is_not_filled_with_the_images_that_are_looked_up(
    analysis: Callable[[Subject], Findings],
) -> None:
    """All labelled images may be held out; each would have been its own nearest neighbour."""
    config = EncoderConfig(
        name="vit_tiny_patch16_224", img_size=36, in_chans=1, patch_size=9, embed_dim=16, depth=1, num_heads=2
    )
    source = open_source("builtin:fashion-canvas:test?shots=1")
    nothing = source.subset(source.keys[:0])
    encoder = create_encoder(config, 0).eval()
    subject = Subject(encoders={"x": encoder}, images=source, bank=nothing, queries=source, held_out=True)
    assert not len(subject.sample(5, subject.bank))
    with pytest.raises(NotApplicable, match="compare others with"):
        analysis(subject)
