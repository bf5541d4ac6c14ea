"""Simple feature pyramid of plain ViTs (ViTDet; Li et al., ECCV 2022)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from libradet.errors import UserError
from libradet.models.backbone import Backbone
from libradet.models.config import BACKBONE_STRIDES, DetectorConfig, Norm, PyramidConfig
from libradet.models.fpn import ExtraLevels, FeaturePyramid
from libradet.models.layers import build_norm, conv_norm


class SimpleFeaturePyramid(ExtraLevels):
    """Levels of stride 4 (or 8) to 32, each from the one feature map of stride 16, and extra coarse levels.

    The map is upsampled by transposed convolutions, kept, or max-pooled; a 1x1 and a 3x3 convolution with norms follow.

    Raises:
        UserError: a stride or number of levels that there cannot be, or extra levels from C5.
    """

    def __init__(self, in_channels: int, config: PyramidConfig) -> None:
        super().__init__(config)
        if config.extra_levels == "conv_on_c5":
            raise UserError("pyramid.extra_levels is conv_on_c5: a plain ViT has no C5; set it to conv_on_p5")
        width, norm = config.channels, config.norm
        self.resample, self.reduce, self.output = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stride in BACKBONE_STRIDES[self.start :]:
            resample, channels = _resample(in_channels, stride, norm)
            self.resample.append(resample)
            self.reduce.append(conv_norm(channels, width, 1, norm))
            self.output.append(conv_norm(width, width, 3, norm))
        self.add_extra_convs(in_channels, width)

    def forward(self, features: Sequence[Float[Tensor, "B _ H W"]]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the levels, finest first, from a list of one feature map."""
        (x,) = features
        layers = zip(self.resample, self.reduce, self.output, strict=True)
        levels = [output(reduce(resample(x))) for resample, reduce, output in layers]
        return levels + self.extra_levels(levels[-1])


def build_pyramid(backbone: Backbone, config: DetectorConfig) -> FeaturePyramid | SimpleFeaturePyramid:
    """Build the pyramid of a configuration for the features of a backbone.

    Raises:
        UserError: the type of pyramid does not fit the backbone, or see the pyramids.
    """
    name, is_simple = config.backbone.name, config.pyramid.type == "simple"
    if backbone.is_plain_vit and not is_simple:
        raise UserError(
            f"backbone {name!r} is a plain ViT, with one feature map of stride 16: set pyramid.type to simple"
        )
    if not backbone.is_plain_vit and is_simple:
        raise UserError(f"pyramid.type is simple, which is for plain ViTs, not for {name!r}: set it to fpn or pafpn")
    if is_simple:
        return SimpleFeaturePyramid(backbone.channels[0], config.pyramid)
    return FeaturePyramid(backbone.channels, config.pyramid, backbone.strides)


def _resample(channels: int, stride: int, norm: Norm) -> tuple[nn.Module, int]:
    """Return layers from stride 16 to ``stride``, and their number of output channels."""
    if stride == 32:
        return nn.MaxPool2d(2, 2), channels
    if stride == 16:
        return nn.Identity(), channels
    half = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
    if stride == 8:
        return half, channels // 2
    quarter = nn.ConvTranspose2d(channels // 2, channels // 4, 2, stride=2)
    return nn.Sequential(half, build_norm(channels // 2, norm), nn.GELU(), quarter), channels // 4
