"""What a generator is trained on: one of two objectives, which belongs to the generator's preset."""

from __future__ import annotations

from accelerate import Accelerator

from feataug.cutting.cut import Cut
from feataug.errors import ConfigError
from feataug.generation.generator import FeatureGenerator
from feataug.training.bicyclegan import BicycleGANObjective, MakeCritic
from feataug.training.config import GeneratorConfig
from feataug.training.cuda_graph import can_capture
from feataug.training.flow_matching import FlowObjective
from feataug.training.objective_base import Objective


def make_objective(
    generator: FeatureGenerator, cut: Cut, config: GeneratorConfig, critic: MakeCritic | None, accelerator: Accelerator, cuda_graph: bool
) -> Objective:
    """The objective of ``config``; a flow's step is captured in a CUDA graph if that is wanted and possible.

    Warns:
        FeatAugWarning: it is wanted and not possible.
    """
    captured = cuda_graph and can_capture(accelerator, config.objective)
    if config.objective == "flow":
        return FlowObjective(generator, cut, config, cuda_graph=captured)
    return BicycleGANObjective(generator, cut, config, critic)


def check_objective(generator: FeatureGenerator, config: GeneratorConfig, critic: object) -> None:
    """Whether the objective can train the generator's network.

    Raises:
        ConfigError: it cannot, or ``critic`` is given for a flow.
    """
    if (config.objective == "flow") != (generator.preset == "flow"):
        own = {"flow": "GeneratorConfig()", "bicyclegan": "GeneratorConfig.bicyclegan()"}.get(generator.preset, "GeneratorConfig.paper()")
        raise ConfigError(
            "GeneratorTrainer: the objective does not train such a generator.",
            given=f"objective {config.objective!r}, a generator with preset {generator.preset!r}",
            needed=f"{own}, or another preset of the generator",
        )
    if critic is not None and config.objective == "flow":
        raise ConfigError(
            "GeneratorTrainer: a flow has no critic.", given=f"critic={critic!r}", needed="no critic, or another preset"
        )
