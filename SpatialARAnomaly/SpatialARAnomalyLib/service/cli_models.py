"""The commands `models …`."""

from pathlib import Path
from typing import Annotated

import typer

from ..engine.errors import SpatialARError
from .cli_common import fail

app = typer.Typer(help="Look at and verify model folders.", no_args_is_help=True)


@app.command("show")
def models_show(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Show a model's card: what it was trained on and how, after verifying it."""
    import json

    from ..engine.model_store import read_card
    from .tables import print_card

    try:
        card = read_card(model)
    except SpatialARError as error:
        fail(error)
    if as_json:
        print(json.dumps(card.to_dict(), indent=1))
    else:
        print_card(card)


@app.command("verify")
def models_verify(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model folder.")],
) -> None:
    """Verify that a model is complete and as it was trained (schema, hashes, tensor shapes)."""
    from ..engine.model_store import verify_model

    try:
        card = verify_model(model)
    except SpatialARError as error:
        fail(error)
    print(f"{card.name}: complete and unchanged (weights {card.weights_sha256[:12]}…)")
