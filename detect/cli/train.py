"""`smear train`: detectors and classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from detect.cli.output import out as console
from detect.cli.output import print_table, print_tally

app = typer.Typer(no_args_is_help=True, help="Train a detector or a classifier.")

Config = Annotated[str, typer.Argument(help="YAML of the training, or the name of a packaged one.")]
Out = Annotated[Path, typer.Option("--out", help="Run folder to write.")]
Root = Annotated[Path | None, typer.Option("--root", help="Folder of the images, where it is not in a usual place.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda:0, or cuda:0,1 for several.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of --out.")]
TrustPickle = Annotated[bool, typer.Option("--trust-pickle", help="Allow a pickle as pretrained weights.")]
AllowLeak = Annotated[
    bool, typer.Option("--allow-leak", help="Train on a split with a group on two sides; the card will say so.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first label that would be dropped.")]


@app.command()
def detector(
    config: Config,
    out: Out,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Dataset card; may be repeated, the first gives the classes.")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="Split file or name, one a --data; the card's own if none."),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option("--seed", help="In place of the configuration's; repeated: one training each.")
    ] = None,
    root: Root = None,
    device: Device = "auto",
    resume: Resume = False,
    trust_pickle: TrustPickle = False,
    allow_leak: AllowLeak = False,
    strict: Strict = False,
) -> None:
    """Train a detector on part `train` of the split; the epoch is chosen on part `dev` of the first set."""
    from detect.detectors.seeds import train_seeds
    from detect.detectors.train import train
    from detect.formats.tally import Tally

    tally = Tally(strict=strict)
    shared: dict[str, Any] = {
        "splits": split or (), "root": root, "device": device, "resume": resume,
        "trust_pickle": trust_pickle, "allow_leak": allow_leak, "tally": tally,
    }  # fmt: skip
    if seed and len(seed) > 1:
        spread = train_seeds(config, data or (), out, seed, **shared)
        print_tally(tally)
        rows = ((s, r["mAP50"], r["mAP50-95"], r["best_epoch"], r["minutes"]) for s, r in spread.runs.items())
        print_table("on dev", ("seed", "mAP50", "mAP50-95", "best epoch", "minutes"), rows)
        console.print(spread.line, soft_wrap=True)
        return
    record = train(config, data or (), out, seed=seed[0] if seed else None, **shared)
    print_tally(tally)
    console.print(f"run written to {out} (best epoch {record['best_epoch']}, {record['minutes']} minutes)")
    console.print(f"next: smear bundle export {out} --out BUNDLE")


@app.command()
def classifier(
    config: Config,
    out: Out,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Dataset card with typed cells; may be repeated.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Split file of the cells, or its name.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="In place of the configuration's.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda:0.")] = "auto",
    resume: Resume = False,
    allow_leak: AllowLeak = False,
) -> None:
    """Train a classifier of cell types on part `train` of the split."""
    from rich.progress import Progress

    from detect.classify.train import train
    from detect.cli.output import err
    from detect.formats.tally import Tally

    tally = Tally()
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("epochs")

        def show(epoch: int, epochs: int, loss: float) -> None:
            bar.update(task, total=epochs, completed=epoch, description=f"epoch {epoch}/{epochs}, loss {loss:.3f}")

        record = train(
            config, data or (), split, out, device=device, seed=seed, resume=resume, allow_leak=allow_leak,
            progress=show, tally=tally,
        )  # fmt: skip
    print_tally(tally)
    console.print(f"run written to {out} (types: {', '.join(record['types'])}; {record['minutes']} minutes)")
    console.print(f"next: smear bundle export {out} --out BUNDLE")
