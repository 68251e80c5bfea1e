"""A split without the held-out pictures that show the same cells as one that was learnt from.

    .venv/bin/python tools/apart_split.py txl-pbc-release --of txl-pbc --held val --out configs/splits/txl-pbc-apart.csv
    .venv/bin/python tools/apart_split.py - --of bccd --held test --learnt txl-pbc txl-pbc-release \
        --out configs/splits/bccd-apart.csv

For a bundle that was trained before its split could see all copies: today's `smear data split` finds pictures that are
turned by any angle, recoloured or overlap in part, and keeps them together from the start. Rows of the held-out part
that share a group with a row of another part become `excluded`; what was learnt from stays as it was. In place of a
split, `-` holds every field of one set. `--learnt SET SPLIT` names another set; its parts `train` and `dev` count.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from detect.data import copies
from detect.data.cards import load_card
from detect.data.fingerprint import file_hash
from detect.data.load import find_root, load_dataset
from detect.data.sources import merge
from detect.data.splits import EXCLUDED, Row, Split, read_split
from detect.formats.tally import Tally


def path_of(row: Row, cards: list[str]) -> Path:
    """The picture of a row; rows of several sets begin with the set's name."""
    if len(cards) == 1:
        return find_root(load_card(cards[0])) / row.field
    name, _, rest = row.field.partition("/")
    return find_root(load_card(name)) / rest


def everything(cards: list[str], part: str) -> Split:
    """Every field of a set, in one part; groups are still to be found."""
    fields = merge(load_dataset(load_card(cards[0]), Tally())).fields
    return Split("all", tuple(Row(f.field.id, f.field.id, part, file_hash(f.field.path)) for f in fields))


def main() -> None:
    """Write the split and say what was left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split", help="or - for every field")
    parser.add_argument("--of", nargs="+", required=True, help="dataset cards")
    parser.add_argument("--held", default="val", help="the held-out part")
    parser.add_argument("--learnt", nargs=2, metavar=("SET", "SPLIT"), help="another set that was learnt from")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    split = everything(asked.of, asked.held) if asked.split == "-" else read_split(asked.split)
    others = [] if asked.learnt is None else read_split(asked.learnt[1]).rows
    others = [row for row in others if row.part in ("train", "dev")]
    paths = [path_of(row, asked.of) for row in split.rows] + [path_of(row, asked.learnt[:1]) for row in others]
    every = copies.groups(paths)
    numbers = every[: len(split.rows)]
    used = {n for n, row in zip(numbers, split.rows, strict=True) if row.part not in (asked.held, EXCLUDED)} | set(
        every[len(split.rows) :]
    )  # learnt from, or chosen on
    if asked.split == "-":
        rows = (replace(row, group=f"g{n:05d}") for n, row in zip(numbers, split.rows, strict=True))
        split = replace(split, rows=tuple(rows))
    rows = tuple(
        replace(row, part=EXCLUDED) if row.part == asked.held and n in used else row
        for n, row in zip(numbers, split.rows, strict=True)
    )
    Split(asked.out.stem, rows).write(asked.out)
    held = [n for n, row in zip(numbers, rows, strict=True) if row.part == asked.held]
    before = sum(row.part == asked.held for row in split.rows)
    print(f"{before} of '{asked.held}', {before - len(held)} share cells with another part and are left out")
    print(f"{len(held)} remain, {len(set(held))} groups of copies among them")
    parts = {row.part for row in split.rows} - {asked.held, EXCLUDED}
    for part in sorted(parts):
        mine = {n for n, row in zip(numbers, rows, strict=True) if row.part == part}
        other = {n for n, row in zip(numbers, rows, strict=True) if row.part in parts - {part}}
        print(f"'{part}': {len(mine)} groups, {len(mine & other)} of them also in {sorted(parts - {part})}")


if __name__ == "__main__":
    main()
