"""The two printed generators against their layers stated once more, and images of any size."""

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from ssl4seg.networks.gan_generators import GANGeneratorDeconv, GANGeneratorStrided

KINDS = [GANGeneratorDeconv, GANGeneratorStrided]


def deconv(channels: int, classes: int) -> nn.Sequential:
    def norm(width: int, activation: nn.Module) -> list[nn.Module]:
        return [nn.BatchNorm2d(width), activation]

    return nn.Sequential(
        *(nn.Conv2d(channels, 64, 4, 2, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(64, 128, 4, 2, 1), *norm(128, nn.LeakyReLU(0.2))),
        *(nn.Conv2d(128, 256, 4, 2, 1), *norm(256, nn.LeakyReLU(0.2))),
        *(nn.Conv2d(256, 512, 4, 2, 1), *norm(512, nn.LeakyReLU(0.2))),
        *(nn.ConvTranspose2d(512, 256, 4, 2, 1), *norm(256, nn.ReLU())),
        *(nn.ConvTranspose2d(256, 128, 4, 2, 1), *norm(128, nn.ReLU())),
        *(nn.ConvTranspose2d(128, 64, 4, 2, 1), *norm(64, nn.ReLU())),
        nn.ConvTranspose2d(64, classes, 4, 2, 1),
    )


def strided(channels: int, classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs, stride in [(channels, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2), (512, 1024, 2)]:
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    for inputs, outputs in [(1024, 512), (512, 256), (256, 128), (128, 64)]:
        layers += [nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(64, classes, 1))


@pytest.mark.parametrize(("kind", "printed"), [(GANGeneratorDeconv, deconv), (GANGeneratorStrided, strided)])
@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_logits_are_those_of_the_printed_layers(kind, printed, training):
    network, expected = kind(in_channels=3, num_classes=5).train(training), printed(3, 5).train(training)
    values = list(network.state_dict().values())  # encoder, decoder, head: the order of the layers
    expected.load_state_dict(dict(zip(expected.state_dict(), values, strict=True)))
    image = torch.rand(2, 3, 32, 48)
    torch.testing.assert_close(network(image), expected(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "number"), [(GANGeneratorDeconv, 5_514_244), (GANGeneratorStrided, 12_543_428)])
def test_number_of_parameters(kind, number):
    assert sum(p.numel() for p in kind(in_channels=1, num_classes=4).parameters()) == number


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (17, 31), (70, 45), (32, 64)])
def test_one_image_of_any_size_trains_and_keeps_its_size(kind, size):
    network = kind(in_channels=1, num_classes=2).train()
    logits = network(torch.rand(1, 1, *size))
    assert (logits.shape, logits.dtype) == ((1, 2, *size), torch.float32)
    logits.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_features_and_maps_have_their_channels_finest_first(kind):
    network, image = kind(in_channels=1, num_classes=3).eval(), torch.rand(1, 1, 45, 64)
    features = network.encode(image)
    maps = network.pyramid(features)
    for found, channels in ((features, network.feature_channels), (maps, network.pyramid_channels)):
        assert tuple(f.shape[1] for f in found) == channels
        assert [f.shape[2] for f in found] == sorted((f.shape[2] for f in found), reverse=True)
    assert features[-1].shape[2:] == (3, 4)
    assert network.decode(features).shape == (1, 3, 48, 64)
    assert torch.equal(network.decode(features), network.head(maps[0]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "inner"), [((70, 45), (80, 48)), ((64, 20), (64, 32)), ((9, 48), (32, 48))])
@torch.no_grad()
def test_an_image_of_another_size_goes_through_stretched_and_its_logits_come_back(kind, size, inner):
    network, image = kind(in_channels=1, num_classes=2).eval(), torch.rand(2, 1, *size)
    logits = network(interpolate(image, inner, mode="bilinear"))
    torch.testing.assert_close(network(image), interpolate(logits, size, mode="bilinear"))
