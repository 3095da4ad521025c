"""The 16 architectures, all with random weights, and a small batch for each. Imports torch.

What a model's library needs is imported when the model is built, so that one that is missing is one
row that says so.

Read next: bench/torch_lsuv/probe.py, which looks at what was done to them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

TIMM, TRANSFORMERS, SMP = (
    "timm==1.0.31",
    "transformers==5.24.0",
    "segmentation_models_pytorch==0.6.0",
)
TORCHVISION = "torchvision==0.29.1"


@dataclass(frozen=True)
class Net:
    """library: what pip installs. build: -> the model. batch: -> a tensor, or named arguments."""

    library: str
    build: Callable[[], torch.nn.Module]
    batch: Callable[[], torch.Tensor | dict]

    @property
    def module(self) -> str:
        return self.library.partition("==")[0]


def vision(name: str, **options) -> Callable:
    def build():
        import torchvision

        return getattr(torchvision.models, name)(weights=None, **options)

    return build


def r3d():
    from torchvision.models.video import r3d_18

    return r3d_18(weights=None)


def pytorch_image_model(name: str, **options) -> Callable:
    def build():
        import timm

        return timm.create_model(name, pretrained=False, **options)

    return build


def unet():
    import segmentation_models_pytorch as smp

    return smp.Unet("resnet18", encoder_weights=None, classes=3)


def transformer(model: str, config: str, **options) -> Callable:
    def build():
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**options))

    return build


def images(*shape: int) -> Callable:
    return lambda: torch.randn(shape, generator=torch.Generator().manual_seed(1))


def tokens(*names: str) -> Callable:
    """2 texts of 32 tokens, under each of the names."""

    def batch():
        own = torch.Generator().manual_seed(1)
        return {name: torch.randint(5, 1000, (2, 32), generator=own) for name in names}

    return batch


SQUARE = images(4, 3, 96, 96)
NETS = {
    "vgg16": Net(TORCHVISION, vision("vgg16"), SQUARE),
    "resnet50": Net(TORCHVISION, vision("resnet50"), SQUARE),
    "densenet121": Net(TORCHVISION, vision("densenet121"), SQUARE),
    "googlenet": Net(TORCHVISION, vision("googlenet", aux_logits=True, init_weights=False), SQUARE),
    "mobilenet_v3_small": Net(TORCHVISION, vision("mobilenet_v3_small"), SQUARE),
    "efficientnet_b0": Net(TORCHVISION, vision("efficientnet_b0"), SQUARE),
    "convnext_tiny": Net(TORCHVISION, vision("convnext_tiny"), SQUARE),
    "vit_b_16": Net(TORCHVISION, vision("vit_b_16", image_size=96), SQUARE),
    "timm vit_tiny": Net(TIMM, pytorch_image_model("vit_tiny_patch16_224", img_size=96), SQUARE),
    "timm nfnet_l0": Net(TIMM, pytorch_image_model("nfnet_l0"), SQUARE),
    "smp Unet-resnet18": Net(SMP, unet, SQUARE),
    "r3d_18": Net(TORCHVISION, r3d, images(2, 3, 8, 64, 64)),
    "hf BERT, 4 layers": Net(
        TRANSFORMERS,
        transformer("BertModel", "BertConfig", num_hidden_layers=4),
        tokens("input_ids"),
    ),
    "hf GPT-2, 4 layers": Net(
        TRANSFORMERS, transformer("GPT2LMHeadModel", "GPT2Config", n_layer=4), tokens("input_ids")
    ),
    "hf T5, 3+3 layers": Net(
        TRANSFORMERS,
        transformer("T5ForConditionalGeneration", "T5Config", num_layers=3, num_decoder_layers=3),
        tokens("input_ids", "decoder_input_ids"),
    ),
    "hf wav2vec2, 2 layers": Net(
        TRANSFORMERS,
        transformer("Wav2Vec2Model", "Wav2Vec2Config", num_hidden_layers=2),
        images(2, 16000),
    ),
}


def called(model: torch.nn.Module, batch):
    """The model's output for the batch."""
    return model(**batch) if isinstance(batch, dict) else model(batch)


def tensors(output) -> list[torch.Tensor]:
    """The floating-point tensors of an output, however it is wrapped."""
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = output.values()
    if isinstance(output, (tuple, list)) or hasattr(output, "__iter__"):
        return [tensor for part in output for tensor in tensors(part)]
    return []
