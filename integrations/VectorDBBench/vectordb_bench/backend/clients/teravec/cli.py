"""The command ``vectordbbench teravec``."""

from typing import Annotated, Unpack

import click

from ....cli.cli import (
    CommonTypedDict,
    cli,
    click_parameter_decorators_from_typed_dict,
    get_custom_case_config,
    run,
)
from .. import DB


class TeravecTypedDict(CommonTypedDict):
    path: Annotated[str, click.option("--path", required=True, help="directory of the indexes")]
    codec: Annotated[str, click.option("--codec", default="sq8", show_default=True)]
    nlist: Annotated[int | None, click.option("--nlist", type=int, help="inverted lists")]
    nprobe: Annotated[int | None, click.option("--nprobe", type=int, help="lists a query visits")]
    recall: Annotated[float | None, click.option("--recall", type=float, help="instead of nprobe")]


@cli.command()
@click_parameter_decorators_from_typed_dict(TeravecTypedDict)
def Teravec(**parameters: Unpack[TeravecTypedDict]):
    from .config import TeravecConfig, TeravecIndexConfig

    parameters["custom_case"] = get_custom_case_config(parameters)
    options = {name: parameters[name] for name in ("codec", "nlist", "nprobe", "recall")}
    run(
        db=DB.Teravec,
        db_config=TeravecConfig(db_label=parameters["db_label"], path=parameters["path"]),
        db_case_config=TeravecIndexConfig(**options),
        **parameters,
    )
