"""MobileNetV3 with a further feature: the output of its first block of stride 32."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from libradet.errors import UserError


class Stride32Features(nn.Module):
    """timm's features of a MobileNetV3, and the output of the first block of stride 32 as the last one.

    torchvision's detectors on MobileNetV3 read this block and the last layer. The modules are those of the body, under
    the same names.

    Args:
        body: what ``timm.create_model(name, features_only=True)`` returns.
        name: timm's name, for messages.

    Attributes:
        feature_info: of all features, the further one included.
        first_row: index of the further feature.

    Raises:
        UserError: the body is not a MobileNetV3.
    """

    def __init__(self, body: Any, name: str) -> None:
        from timm.models._features import FeatureInfo
        from timm.models.mobilenetv3 import MobileNetV3Features

        super().__init__()
        if not isinstance(body, MobileNetV3Features):
            raise _no_mobilenet(name)
        features = body.feature_info.get_dicts()
        # Stage 0 is the stem, stage i the output of blocks[i - 1]. Stride 32 begins after the last of stride 16.
        self.before_first = max(feature["stage"] for feature in features if feature["reduction"] < 32)
        parts: Any = body
        first = parts.blocks[self.before_first][0]
        if not hasattr(first, "conv_pwl"):  # a relative, such as MobileNetV4
            raise _no_mobilenet(name)
        for child_name, child in body.named_children():
            self.add_module(child_name, child)
        self.ends = [feature["stage"] for feature in features]
        self.first_row = len(features)
        further = {"module": f"blocks.{self.before_first}.0", "reduction": 32, "num_chs": first.conv_pwl.out_channels}
        self.feature_info = FeatureInfo([*features, further], tuple(range(self.first_row + 1)))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return timm's features, finest first, and the further one."""
        parts: Any = self
        x = parts.act1(parts.bn1(parts.conv_stem(images)))
        features, further = ([x] if 0 in self.ends else []), []
        for stage, blocks in enumerate(parts.blocks):
            for i, block in enumerate(blocks):
                x = block(x)
                if stage == self.before_first and i == 0:
                    further.append(x)
            if stage + 1 in self.ends:
                features.append(x)
        return features + further


def _no_mobilenet(name: str) -> UserError:
    return UserError(
        f"backbone.features is stride_32, which needs a MobileNetV3 such as mobilenetv3_large_100, not {name}: "
        "set it to stages"
    )
