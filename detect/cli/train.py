"""`smear train`: detectors, classifiers, and what tells slides apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from detect.cli.output import out as console
from detect.cli.output import print_table, print_tally

app = typer.Typer(
    no_args_is_help=True, help="Train detectors, classifiers, segmenters of cells, and what tells slides apart."
)

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
    from detect.classify.train import train
    from detect.cli.output import epochs_bar
    from detect.formats.tally import Tally

    tally = Tally()
    with epochs_bar() as show:
        record = train(
            config, data or (), split, out, device=device, seed=seed, resume=resume, allow_leak=allow_leak,
            progress=show, tally=tally,
        )  # fmt: skip
    print_tally(tally)
    console.print(f"run written to {out} (types: {', '.join(record['types'])}; {record['minutes']} minutes)")
    console.print(f"next: smear bundle export {out} --out BUNDLE")


@app.command()
def segmenter(
    config: Config,
    out: Out,
    data: Annotated[
        list[str], typer.Option("--data", help="Dataset card with masks of cell and nucleus; may be repeated.")
    ],
    split: Annotated[list[str] | None, typer.Option("--split", help="Split file or name, one a --data.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda:0.")] = "auto",
    resume: Resume = False,
) -> None:
    """Train what finds nucleus and cytoplasm of a white cell, on part `train` of each set's split."""
    from detect.classify.segmenters import train
    from detect.cli.output import epochs_bar
    from detect.formats.tally import Tally

    tally = Tally()
    with epochs_bar() as show:
        record = train(config, data, split or (), out, device=device, resume=resume, progress=show, tally=tally)
    print_tally(tally)
    console.print(f"run written to {out} ({sum(record['cells']['train'].values())} cells, {record['minutes']} minutes)")
    console.print(f"next: smear bundle export {out} --out BUNDLE")


@app.command()
def slide(
    config: Config,
    run: Annotated[list[Path], typer.Option("--run", help="Finished scoring run of the slides; may be repeated.")],
    truth: Annotated[Path, typer.Option("--truth", help="CSV with columns slide and disease (and run, with several).")],
    out: Annotated[Path, typer.Option("--out", help="Bundle folder to write.")],
    name: Annotated[str | None, typer.Option("--name", help="Name on the card; the folder's by default.")] = None,
    title: Annotated[str, typer.Option("--title", help="One line on the card.")] = "What a slide resembles",
    licence: Annotated[str, typer.Option("--licence", help="Licence of the weights.")] = "AGPL-3.0-or-later",
    limit: Annotated[list[str] | None, typer.Option("--limit", help="A limit for the card; may be repeated.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
) -> None:
    """Train what tells slides apart, from what was answered of their cells, and write its bundle."""
    from detect import assets
    from detect.bundles.draft import Description
    from detect.classify.bags import SlideSettings
    from detect.classify.slides import train
    from detect.config import load
    from detect.score.bags import to_learn

    settings = load(SlideSettings, assets.find(config, "configs/slides", ".yaml"))
    slides = to_learn(run, truth, settings)
    about = Description(name or out.name, title, licence, tuple(limit or ()))
    report = train(settings, slides, out, about, overwrite=overwrite)
    print_table(
        f"{len(slides.names)} slides, {report.n_cells} of them measured while held out",
        ("pattern", "F1"),
        ((pattern, f1) for pattern, f1 in report.f1.items()),
    )
    console.print(f"accuracy {report.accuracy}; bundle written to {out}")
