"""What the synthetic smear may look like: every range that a slide, a field or a cell is drawn from.

`configs/smear/train.yaml` is what models learn from. `configs/smear/test.yaml` is wider in stain, blur, magnification
and morphology, and holds stains of its own: figures on synthetic fields are measured on that one, so that no model is
praised for knowing the generator.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator
from pydantic import Field as Key

from detect import assets
from detect.config import Settings, load
from detect.errors import ConfigError
from detect.taxonomy import taxonomy


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"expected [low, high], got {list(value)}")
    return value


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
Rgb = tuple[float, float, float]
Nucleus = Literal["round", "lobed", "band", "kidney", "folded", "smeared"]


class Look(Settings):
    """One way to stain and photograph a slide: the colours, 0 to 255, of the ground and of what lies on it.

    Attributes:
        red: red cells, beside their pallor. pink, blue: cytoplasm without and with basophilia. chromatin: of nuclei.
        orange, purple, black: granules of eosinophils, azurophilic ones, those of basophils.
        share: how often, beside the other looks.
    """

    ground: Rgb
    red: Rgb
    chromatin: Rgb
    pink: Rgb
    blue: Rgb
    orange: Rgb
    purple: Rgb
    black: Rgb
    share: float = Key(1.0, gt=0)


class Optics(Settings):
    """Light and camera.

    Attributes:
        px_per_um: pixels a micrometre.
        strength: factor on all stain of a slide. detail: contrast of the chromatin.
        stain_spread: spread of each dye's colour about that of the look.
        balance: factor on red of the whole picture; blue moves the other way, both together by a quarter of the range.
        gamma: of the picture's tones.
        vignette: light lost in the corners. gradient: light lost from one side to the other.
        blur_um: radius of the point spread, micrometres; defocus_um: that of a field out of focus; out_of_focus: how
            often one is.
        halo: bright line around what is dark. fringe: shift between red and blue, pixels.
        sharpen: how much the camera sharpens what is finer than a pixel or two; below 0.1 it does not.
        noise: spread of grain at mid grey, of 255. jpeg: quality.
    """

    px_per_um: Range
    strength: Range
    detail: Range
    stain_spread: float
    balance: Range
    gamma: Range
    vignette: Range
    gradient: Range
    blur_um: Range
    defocus_um: Range
    out_of_focus: float
    halo: Range
    fringe: Range
    sharpen: Range
    noise: Range
    jpeg: tuple[int, int]


class Reds(Settings):
    """Red cells of a slide.

    Attributes:
        diameter_um: of the slide; spread: of its cells about it, a share.
        cover: area of the red cells, of that of the field; where they overlap it counts twice.
        overlap: share of cells that may lie on others.
        uneven: how uneven outlines are. flow: how far cells that lie on others spread out: 0, densities add up; 1,
            nearly only the denser counts.
        rouleaux: share of cells in rolls. rim: how much darker the rim is.
        dome: how a cell thins out towards its edge: 0, all at once, as a drop that dried; 1, like one that swims.
        pallor: depth of the pale middle. pallor_width: its radius, of the cell's.
        even_blue: part of the blue light that is lost all over the cell alike: the pallor is yellower than the rim.
        oval: least ratio of the axes. aligned: share of cells stretched the way the film was drawn.
        spherocytes, targets, stomatocytes, teardrops, crenated: share of cells.
        refractile: share with a bright spot of drying in their middle.
    """

    diameter_um: Range
    spread: Range
    cover: Range
    overlap: Range
    uneven: Range
    flow: Range
    rouleaux: Range
    rim: Range
    dome: Range
    pallor: Range
    pallor_width: Range
    even_blue: Range
    oval: Range
    aligned: Range
    spherocytes: Range
    targets: Range
    stomatocytes: Range
    teardrops: Range
    crenated: Range
    refractile: Range


class White(Settings):
    """One type of white cell. Lengths in micrometres, areas as shares.

    Attributes:
        diameter_um: of a circle of the cell's area. nucleus_share: part of the cell's area under its nucleus.
        nucleus: shape. lobes: of a lobed one. clefts: how often a round one has a cleft.
        eccentric: how far the nucleus lies off the middle, of the radius. rough: how uneven the nuclear outline is.
        outline: how uneven the cell's outline is. blebs: how often it has some.
        chromatin: density. clumped: 0 fine and even, 1 in dense blocks. grain_um: of the chromatin.
        nucleoli: how many. nucleolus_um: diameter.
        cytoplasm: density. basophilia: 0 pink, 1 blue. edge: darker towards the outline.
        hof: how often there is a pale place by the nucleus.
        granules: how many a square micrometre of cytoplasm. granule_um: diameter. granule: which dye. over_nucleus:
            whether they lie on the nucleus too.
        vacuoles: how many. auer: how often there is an Auer rod.
    """

    diameter_um: Range
    nucleus_share: Range
    nucleus: Nucleus
    lobes: tuple[int, int] = (1, 1)
    clefts: float = 0.0
    eccentric: Range = (0.0, 0.1)
    rough: Range = (0.02, 0.05)
    outline: Range = (0.01, 0.04)
    blebs: float = 0.0
    chromatin: Range = (0.85, 1.1)
    clumped: Range = (0.4, 0.7)
    grain_um: Range = (0.35, 0.6)
    nucleoli: tuple[int, int] = (0, 0)
    nucleolus_um: Range = (1.0, 1.6)
    cytoplasm: Range = (0.6, 1.0)
    basophilia: Range = (0.0, 0.2)
    edge: Range = (0.0, 0.2)
    hof: float = 0.0
    granules: Range = (0.0, 0.0)
    granule_um: Range = (0.3, 0.5)
    granule: Literal["orange", "purple", "black", "pink"] = "purple"
    over_nucleus: bool = False
    vacuoles: tuple[int, int] = (0, 0)
    auer: float = 0.0


class Disease(Settings):
    """What the white cells of a slide are.

    Attributes:
        differential: share of each type. white_per_field: how many in an area of `FIELD_UM2`.
    """

    differential: dict[str, float]
    white_per_field: Range


class Debris(Settings):
    """What lies between the cells. Numbers are for an area of `FIELD_UM2`; clumps: share of platelets' places."""

    platelets: Range
    platelet_um: Range
    clumps: float
    precipitate: Range
    dust: Range
    scratches: Range


class Smear(Settings):
    """All ranges.

    Attributes:
        looks: stains; a slide's is a mixture of two.
        diseases: name to what is special; a slide has one, all alike often.
    """

    name: str
    looks: dict[str, Look]
    optics: Optics
    reds: Reds
    whites: dict[str, White]
    diseases: dict[str, Disease]
    debris: Debris

    @model_validator(mode="after")
    def _names_are_known(self) -> Smear:
        for name in self.whites:
            if name not in taxonomy():
                raise ValueError(f"whites: '{name}' is no label of annotations/taxonomy.yaml")
        for disease, told in self.diseases.items():
            for name in told.differential:
                if name not in self.whites:
                    raise ValueError(f"diseases.{disease}.differential: '{name}' is not among the whites")
        if not self.looks or not self.diseases:
            raise ValueError("at least one look and one disease are needed")
        return self

    def only(self, disease: str) -> Smear:
        """With one disease. ConfigError lists those there are."""
        if disease not in self.diseases:
            known = ", ".join(self.diseases)
            raise ConfigError(f"no disease '{disease}' in the ranges '{self.name}'", remedy=f"one of: {known}")
        return self.model_copy(update={"diseases": {disease: self.diseases[disease]}})

    def at(self, px_per_um: float) -> Smear:
        """With one magnification, pixels a micrometre."""
        return self.model_copy(update={"optics": self.optics.model_copy(update={"px_per_um": (px_per_um,) * 2})})


FIELD_UM2 = 10_000.0  # about a field of a 100x objective


def load_smear(given: str) -> Smear:
    """Ranges by packaged name (`train`, `test`) or by the path of a file."""
    return load(Smear, assets.find(given, "configs/smear", ".yaml"))
