"""The commands by name, in the order of a whole run. A new command is a file like these and a line here."""

from feataug.cli.command import Command
from feataug.cli.commands import compare, demo, evaluate, finetune, fit_bias, fit_generator, inspect, report, stages, teach

_MODULES = (demo, inspect, stages, fit_generator, finetune, fit_bias, compare, teach, evaluate, report)
COMMANDS: dict[str, Command] = {module.COMMAND.name: module.COMMAND for module in _MODULES}
