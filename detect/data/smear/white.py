"""White cells: outline, nucleus, chromatin, cytoplasm, granules, by the ranges of their type.

A shape is drawn in units of the cell's radius; its nucleus is then let grow until it has just the share of the cell
that was drawn for it, so that the N:C ratio is known and not hoped for.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from detect.data.smear.drawn import Drawn, Floats, Mask, circularity, diameter, solidity
from detect.data.smear.settings import White
from detect.data.smear.shapes import Grid, arc, capsule, chain, cover, joined, polar, turned, turns, waves, wavy, wedge
from detect.data.smear.slide import Slide, between

_WITHIN = 0.97  # of the way to the outline: where a nucleus ends at the latest
_PROMINENT_UM, _LARGE_UM, _ROUND = 1.3, 15.0, 0.86  # of GUIDE.md's flags: nucleolus, twice a small lymphocyte, outline
_SOLID = 0.93  # of the nucleus to its convex hull: less is a cleft or a dent
_LOW_NC = 0.2  # part of the cell that is cytoplasm, from which N:C is low
_FEW_VACUOLES = 3
_PALEST = 0.55  # chromatin between its clumps, of its density
_GRANULE_DENSITY = {"orange": 0.75, "purple": 0.6, "black": 0.95, "pink": 0.6}


@dataclass(eq=False)
class _Cell:
    """A cell while it is drawn."""

    slide: Slide
    rng: np.random.Generator
    look: White
    grid: Grid
    radius: float
    u: Floats
    v: Floats
    at: Floats
    body: Floats
    cell: Mask
    nucleus: Floats
    amounts: dict[str, Floats]

    def um(self, length: float) -> float:
        """Pixels of a length."""
        return length * self.slide.px_per_um

    def grain(self, scale_um: float) -> Floats:
        """Noise with a grain of some micrometres."""
        return self.slide.texture.cut(self.rng, *self.grid.shape, max(self.um(scale_um), 0.5))

    def add(self, dye: str, amount: Floats) -> None:
        """More of a dye."""
        self.amounts[dye] = self.amounts[dye] + amount if dye in self.amounts else np.asarray(amount, np.float32)

    def fade(self, part: Floats) -> None:
        """Less of everything: part 0 leaves all, 1 nothing."""
        for dye in self.amounts:
            self.amounts[dye] = self.amounts[dye] * (1 - part)


def white(slide: Slide, rng: np.random.Generator, name: str, look: White, x: float, y: float) -> Drawn:
    """A white cell of a type at a place, in pixels of the field."""
    wanted = between(rng, look.diameter_um)
    radius = 0.5 * wanted * slide.px_per_um
    grid = Grid.around(x, y, radius * 1.6 + 3)
    turn, ratio = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0.82, 1.0))
    u, v = turned(grid.x, grid.y, turn)
    u, v = u * np.float32(ratio / radius), v / np.float32(ratio * radius)
    at = polar(u, v, _outline(rng, look))
    if look.nucleus == "smeared":
        at = at + between(rng, look.rough) * slide.texture.cut(rng, *grid.shape, 0.7 * slide.px_per_um)
        at = at + 1.6 * between(rng, look.rough) * slide.texture.cut(rng, *grid.shape, 2.2 * slide.px_per_um)
    body = cover((at - 1) * np.float32(radius))
    cell = _largest(body >= 0.5)
    one = _Cell(slide, rng, look, grid, radius, u, v, at, body * cell, cell, np.zeros_like(body), {})
    if look.nucleus == "smeared":
        return _smudge(one, name)
    return _intact(one, name)


def _outline(rng: np.random.Generator, look: White) -> Floats:
    """Radius at each of `turns`, about 1, of an area like that of the unit disc."""
    angle = turns()
    out = wavy(angle, *waves(rng, between(rng, look.outline), 2, 8))
    bumps: list[tuple[float, float, float]] = []
    if rng.random() < look.blebs:
        n = int(rng.integers(1, 4))
        bumps = [(rng.uniform(-np.pi, np.pi), rng.uniform(0.06, 0.18), rng.uniform(0.06, 0.14)) for _ in range(n)]
    for place, height, width in bumps:
        off = np.angle(np.exp(1j * (angle - place)))
        out = out + height * np.exp(-((off / width) ** 2))
    return np.asarray(out / np.sqrt(np.mean(out**2)), np.float32)


def _largest(mask: Mask) -> Mask:
    """Its largest connected part: a cell is one piece."""
    number, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if number <= 2:
        return mask
    return np.asarray(parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])))


def _intact(one: _Cell, name: str) -> Drawn:
    share = between(one.rng, one.look.nucleus_share)
    shape, cleft = _nucleus(one)
    inside = np.maximum(shape, one.at - np.float32(_WITHIN))
    # It grows around its clefts, not over them.
    room = np.sort(inside[one.cell & (cleft > 0)])
    limit = room[min(round(share * np.count_nonzero(one.cell)), len(room) - 1)]
    # Pixels into the nucleus, negative inside.
    depth = np.asarray(-joined(limit - inside, cleft, 0.12) * np.float32(one.radius), np.float32)
    one.nucleus = cover(depth) * one.body
    nucleus = (one.nucleus >= 0.5) & one.cell
    _cytoplasm(one)
    nucleoli = _chromatin(one, depth)
    granular = _granules(one, nucleus)
    vacuoles = _vacuoles(one, nucleus)
    auer = one.rng.random() < one.look.auer
    if auer:
        _auer(one, nucleus)
    return _told(one, name, nucleus, nucleoli, granular, vacuoles, auer)


def _told(
    one: _Cell, name: str, nucleus: Mask, nucleoli: list[float], granular: float, vacuoles: int, auer: bool
) -> Drawn:
    cell_area, nucleus_area = int(np.count_nonzero(one.cell)), int(np.count_nonzero(nucleus))
    size, round_ = diameter(one.cell, one.slide.px_per_um), circularity(nucleus)
    told: dict[str, float | bool] = {
        "diameter_um": size,
        "circularity": circularity(one.cell),
        "nucleus_circularity": round_,
        "nc_ratio": round(nucleus_area / max(cell_area - nucleus_area, 1), 3),
        "cytoplasm_share": round(1 - nucleus_area / cell_area, 3),
        "granularity": round(granular, 3),
        "low_nc": bool(1 - nucleus_area / cell_area >= _LOW_NC),
        "prominent_nucleoli": any(d >= _PROMINENT_UM for d in nucleoli),
        "irregular_nucleus": round_ < _ROUND or solidity(nucleus) < _SOLID,
        "large_cell": size > _LARGE_UM,
        "vacuolated": vacuoles >= _FEW_VACUOLES,
        "auer_rods": auer,
    }
    return Drawn(name, one.grid.left, one.grid.top, one.amounts, one.cell, nucleus, told)


def _nucleus(one: _Cell) -> tuple[Floats, Floats]:
    """Distance from the nuclear outline before it has its size, and from its clefts, in radii of the cell."""
    rng, look = one.rng, one.look
    off, way = between(rng, look.eccentric), rng.uniform(0, 2 * np.pi)
    # Uneven outlines come from a bent plane: no outline of a nucleus is drawn with a compass.
    rough = between(rng, look.rough)
    wide = float(rng.uniform(1.0, 2.0))
    u = one.u - np.float32(off * np.cos(way)) + rough * one.grain(wide)
    v = one.v - np.float32(off * np.sin(way)) + rough * one.grain(wide)
    if look.nucleus == "lobed":
        return _lobed(rng, look, u, v), _clefts(rng, look, u, v)
    if look.nucleus == "band":
        span, wide = rng.uniform(2.6, 4.2), rng.uniform(0.15, 0.21)
        places = arc(rng.uniform(0.4, 0.5), rng.uniform(0, 2 * np.pi), span, 9)
        middle = places.mean(axis=0) * 0.8
        radii = [wide * rng.uniform(0.9, 1.1) for _ in places]
        return chain(u, v, places - middle, radii, wide * 0.9, 0.1), _clefts(rng, look, u, v)
    if look.nucleus in ("kidney", "folded"):
        folded = look.nucleus == "folded"
        span = rng.uniform(1.0, 3.0) if folded else rng.uniform(1.7, 2.5)
        wide = rng.uniform(0.3, 0.42)
        places = arc(rng.uniform(0.26, 0.38), rng.uniform(0, 2 * np.pi), span, 6)
        places = places - places.mean(axis=0) * rng.uniform(0.5, 0.9)
        radii = [wide * rng.uniform(0.8, 1.2) if folded else wide for _ in places]
        return chain(u, v, places, radii, wide * 0.8, 0.15), _clefts(rng, look, u, v)
    b = rng.uniform(0.82, 1.0)
    turn = rng.uniform(0, np.pi)
    p, q = turned(u, v, turn)
    outline = wavy(turns(), *waves(rng, 0.5 * rough, 2, 5))
    away = polar(p, q / np.float32(b), outline)
    return np.asarray((away - 0.75) * b, np.float32), _clefts(rng, look, u, v)


def _lobed(rng: np.random.Generator, look: White, u: Floats, v: Floats) -> Floats:
    n = int(rng.integers(look.lobes[0], look.lobes[1] + 1))
    away = rng.uniform(0.4, 0.54)
    span = min(rng.uniform(2.1, 2.8) * (n - 1) ** 0.55, 5.0)
    places = arc(away, rng.uniform(0, 2 * np.pi), span, n) + rng.normal(0, 0.05, (n, 2))
    places = places - places.mean(axis=0) * rng.uniform(0.3, 0.8)
    wide = 0.5 / np.sqrt(n)
    radii = [wide * rng.uniform(0.75, 1.2) for _ in range(n)]
    return chain(u, v, places, radii, rng.uniform(0.02, 0.09), 0.06)


def _clefts(rng: np.random.Generator, look: White, u: Floats, v: Floats) -> Floats:
    """Distance from the cuts into a nucleus, far everywhere where there are none."""
    out = np.full(u.shape, 9.0, np.float32)
    if rng.random() < look.clefts:
        for _ in range(int(rng.integers(1, 3))):
            way, aside = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.25)
            deep = rng.uniform(0.25, 0.6)
            start = (0.95 * np.cos(way), 0.95 * np.sin(way))
            end = (deep * np.cos(way + aside), deep * np.sin(way + aside))
            out = np.minimum(out, wedge(u, v, start, end, rng.uniform(0.12, 0.32)))
    return out


def _cytoplasm(one: _Cell) -> None:
    rng, look = one.rng, one.look
    blue, edge = between(rng, look.basophilia), between(rng, look.edge)
    outer = np.clip((one.at - 0.55) / 0.45, 0, 1)
    amount = between(rng, look.cytoplasm) * (0.9 + edge * outer * outer)
    amount = amount * (1 + 0.10 * one.grain(0.35) + 0.10 * one.grain(1.1))
    if rng.random() < look.hof:
        # A pale place beside the nucleus, on the side where there is most cytoplasm.
        weight = one.body * (1 - one.nucleus)
        total = max(float(weight.sum()), 1e-6)
        mx, my = float((one.u * weight).sum() / total), float((one.v * weight).sum() / total)
        pale = np.exp(-(((one.u - mx) ** 2 + (one.v - my) ** 2) / np.float32(rng.uniform(0.05, 0.1))))
        amount = amount * (1 - np.float32(rng.uniform(0.4, 0.7)) * pale)
    # Cytoplasm lies over and under the nucleus too, thinner.
    amount = np.clip(amount, 0, None) * one.body * (1 - np.float32(0.75) * one.nucleus)
    one.add("blue", amount * np.float32(blue))
    one.add("pink", amount * np.float32(1 - blue))


def _chromatin(one: _Cell, depth: Floats) -> list[float]:
    """Stain the nucleus; diameters of its nucleoli, micrometres."""
    rng, look = one.rng, one.look
    clumped, grain = between(rng, look.clumped), between(rng, look.grain_um)
    fine = one.grain(grain * 0.5)
    blocks = np.tanh(1.4 * one.grain(grain))
    blocks = np.where(blocks < 0, 1.1 * blocks, 0.7 * blocks)  # pale gaps in dark chromatin, more than dark spots
    detail = np.float32(one.slide.optics["detail"])
    texture = 1 + detail * (0.11 * fine + np.float32(0.04 + 0.11 * clumped) * blocks)
    texture = np.maximum(texture, _PALEST)
    membrane = np.exp(-((depth / np.float32(max(one.um(0.3), 0.8))) ** 2))
    texture = texture + detail * np.float32(0.06 + 0.12 * clumped) * membrane
    found = []
    for _ in range(int(rng.integers(look.nucleoli[0], look.nucleoli[1] + 1))):
        deep = np.argwhere(depth < -0.18 * one.radius)
        if not len(deep):
            break
        row, column = deep[int(rng.integers(len(deep)))]
        size = between(rng, look.nucleolus_um)
        dx, dy = one.grid.x - one.grid.x[row, column], one.grid.y - one.grid.y[row, column]
        edge = np.hypot(dx, dy * np.float32(rng.uniform(0.8, 1.25))) - np.float32(0.5 * one.um(size))
        pale = cover(edge, max(0.35 * one.um(size), 1.0))
        ring = np.exp(-((edge / np.float32(max(one.um(0.2), 0.8))) ** 2))
        texture = texture * (1 - np.float32(rng.uniform(0.3, 0.5)) * pale) + 0.12 * ring
        one.add("blue", np.asarray(0.35 * pale * one.nucleus, np.float32))
        found.append(size)
    one.add("chromatin", np.clip(texture, 0.1, None) * one.nucleus * np.float32(between(rng, look.chromatin)))
    return found


def _granules(one: _Cell, nucleus: Mask) -> float:
    """Strew granules; the part of the cytoplasm that lies under them."""
    rng, look = one.rng, one.look
    place = one.cell & (one.at < 0.96) if look.over_nucleus else one.cell & ~nucleus & (one.at < 0.96)
    spots = np.argwhere(place)
    n = round(between(rng, look.granules) * len(spots) / one.slide.px_per_um**2)
    if not n:
        return 0.0
    amount = np.zeros(one.grid.shape, np.float32)
    for part in (0.8, 1.0, 1.25):  # three sizes
        impulses = np.zeros(one.grid.shape, np.float32)
        chosen = spots[rng.integers(0, len(spots), max(1, n // 3))]
        np.add.at(impulses, (chosen[:, 0], chosen[:, 1]), rng.uniform(0.6, 1.1, len(chosen)).astype(np.float32))
        size = 0.5 * one.um(between(rng, look.granule_um)) * part
        reach = int(np.ceil(size)) + 1
        along = np.arange(-reach, reach + 1, dtype=np.float32)
        kernel = cover(np.asarray(np.hypot(along[None], along[:, None]) - max(size, 0.45), np.float32))
        amount += cv2.filter2D(impulses, -1, kernel, borderType=cv2.BORDER_CONSTANT)
    amount = np.minimum(amount, 1.25) * one.body
    if not look.over_nucleus:
        amount = amount * (1 - one.nucleus)
    one.add(look.granule, amount * np.float32(_GRANULE_DENSITY[look.granule]))
    outside = one.cell & ~nucleus
    return float((amount[outside] > 0.4).mean()) if outside.any() else 0.0


def _vacuoles(one: _Cell, nucleus: Mask) -> int:
    rng, look = one.rng, one.look
    spots = np.argwhere(one.cell & ~nucleus & (one.at < 0.93))
    n = int(rng.integers(look.vacuoles[0], look.vacuoles[1] + 1)) if len(spots) else 0
    for row, column in spots[rng.integers(0, len(spots), n)] if n else ():
        size = np.float32(0.5 * one.um(rng.uniform(0.5, 1.3)))
        dx, dy = one.grid.x - one.grid.x[row, column], one.grid.y - one.grid.y[row, column]
        edge = np.hypot(dx, dy) - size
        one.fade(np.float32(rng.uniform(0.6, 0.95)) * cover(edge, 1.5))
        one.add("blue", np.asarray(0.12 * np.exp(-((edge / 1.2) ** 2)) * one.body, np.float32))
    return n


def _auer(one: _Cell, nucleus: Mask) -> None:
    """One to three needles in the cytoplasm."""
    rng = one.rng
    spots = np.argwhere(one.cell & ~nucleus & (one.at < 0.9))
    for row, column in spots[rng.integers(0, len(spots), int(rng.integers(1, 4)))] if len(spots) else ():
        x, y, way = float(one.grid.x[row, column]), float(one.grid.y[row, column]), rng.uniform(0, np.pi)
        half = 0.5 * one.um(rng.uniform(2.5, 5.0))
        ends = [(x + s * half * np.cos(way), y + s * half * np.sin(way)) for s in (-1, 1)]
        edge = capsule(one.grid.x, one.grid.y, ends[0], ends[1], max(0.5 * one.um(0.3), 0.5))
        one.add("purple", np.asarray(cover(edge) * one.body * np.float32(rng.uniform(0.8, 1.2)), np.float32))


def _smudge(one: _Cell, name: str) -> Drawn:
    """A burst cell: chromatin spread out, no cytoplasm, no border of the nucleus."""
    rng, look = one.rng, one.look
    fibres = np.tanh(1.5 * one.grain(0.6)) * 0.3 + 0.25 * one.grain(1.6) + 0.1 * one.grain(0.3)
    thick = np.clip(1.15 - one.at, 0, 1) ** np.float32(0.6)
    soft = cover((one.at - 0.97) * np.float32(one.radius), max(0.12 * one.radius, 1.5)) * one.cell
    amount = np.clip(thick + between(rng, look.clumped) * fibres, 0.03, None) * soft
    one.add("chromatin", np.asarray(amount * between(rng, look.chromatin), np.float32))
    told = {"diameter_um": diameter(one.cell, one.slide.px_per_um), "circularity": circularity(one.cell)}
    return Drawn(name, one.grid.left, one.grid.top, one.amounts, one.cell, None, told)
