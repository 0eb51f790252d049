"""Options that several verbs take: one spelling and one help text for each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FinishedModel = Annotated[str, typer.Argument(help="model name, or local-dir:FOLDER of a finished run")]
StoredModel = Annotated[str, typer.Argument(help="model name, local-dir:FOLDER or hf-hub:user/repo")]
ModelToTrain = Annotated[str, typer.Argument(help="model name, for example entity_moe/digits")]
Checkpoint = Annotated[Path | None, typer.Option(help=".safetensors file with the weights")]
TakePretrained = Annotated[bool, typer.Option("--pretrained", help="take pretrained weights")]
StartPretrained = Annotated[bool, typer.Option("--pretrained", help="start from pretrained weights")]
Fields = Annotated[list[str] | None, typer.Option("--set", help="key=value, a configuration field; may be repeated")]
RecipeValues = Annotated[list[str] | None, typer.Option("--set", help="key=value, for example data.name=digits")]
RecipeFile = Annotated[Path | None, typer.Option(help="YAML file over the model's recipe")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
Generation = Annotated[
    list[str] | None, typer.Option(help="of a captioner: key=value, for example num_beams=1; may be repeated")
]
