"""The scene: the desk of the package `robodesk`, two more beside it, and a television behind them.

The package is only located, not imported: it would import gym, which is no longer maintained.
"""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from denoised_mdp.errors import UserError

BUTTONS = {"red": "1 0 0", "green": "0 1 0", "blue": "0 0 1"}
INSTALL = "pip install --no-deps robodesk==1.0.0"
SCREEN = 120  # texels a side of the television's picture
SCREEN_FACE = 3  # the face of the screen's cube texture that shows the picture; the others are black

_NEIGHBOURS = (1.3, 2.6)  # metres to the right
_LAMP = {"type": "cylinder", "size": ".06 .0075", "pos": "0 0 .005", "group": "1", "contype": "0", "conaffinity": "0"}


def folder() -> Path:
    """Returns the folder of the package's XML files, meshes and textures.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec("robodesk")
    for place in (spec and spec.submodule_search_locations) or ():
        if (found := Path(place, "assets")).joinpath("desk.xml").is_file():
            return found
    raise UserError(f"env=robodesk needs the files of the package robodesk (the extra `robodesk`): {INSTALL}")


def xml(assets: Path) -> str:
    """Returns the scene as MJCF with absolute paths of its meshes and textures; `assets` is `folder()`.

    The joints of the package's desk come first and in its order. The neighbouring desks have no joints: the arm cannot
    reach them, and the picture is the same.
    """
    root = _read(assets / "desk.xml")
    asset, world = _only(root, "asset[1]"), _only(root, "worldbody")
    for element in root.iter():
        if element.tag in ("mesh", "texture") and (file := element.get("file")):
            element.set("file", str(assets / file))
    _only(asset, "material[@name='plane_material']").set("reflectance", ".01")
    SubElement(world, "camera", name="view")
    _furnish(world)
    _add_lamps(world)
    _add_television(asset, world)
    return ElementTree.tostring(root, encoding="unicode")


def _read(path: Path) -> Element:
    """Reads an MJCF file together with the files that it includes."""
    root = ElementTree.parse(path).getroot()
    for parent in list(root.iter()):
        for place, child in reversed(list(enumerate(parent))):
            if child.tag == "include":
                parent[place : place + 1] = list(_read(path.with_name(child.attrib["file"])))
    return root


def _only(parent: Element, path: str) -> Element:
    found = parent.findall(path)
    if len(found) != 1:
        raise RuntimeError(f"the package robodesk has another scene than 1.0.0: {len(found)} elements {path}")
    return found[0]


def _furnish(world: Element) -> None:
    """Adds two copies of bin, desk, buttons and lights (the bodies without names) to the right."""
    furniture = [
        body
        for body in world.findall("body")
        if "name" not in body.attrib and body.find("body[@name='panda0_link0']") is None
    ]
    for shift in _NEIGHBOURS:
        for body in furniture:
            neighbour = copy.deepcopy(body)
            x, *yz = neighbour.attrib["pos"].split()
            neighbour.set("pos", " ".join([str(float(x) + shift), *yz]))
            for element in list(neighbour.iter()):
                element.attrib.pop("name", None)
                for joint in element.findall("joint"):
                    element.remove(joint)
            world.append(neighbour)


def _add_lamps(world: Element) -> None:
    """Adds two lamps over the lamp of each button's light, one bright and one dark, both invisible at first."""
    for button, rgb in BUTTONS.items():
        light = _only(world, f".//body[@name='{button}_light']")
        _only(light, "body/geom").set("name", f"{button}_lamp")
        SubElement(light, "geom", _LAMP, name=f"{button}_bright", rgba=f"{rgb} 0")
        SubElement(light, "geom", _LAMP, name=f"{button}_dark", rgba=".3 .3 .3 0")


def _add_television(asset: Element, world: Element) -> None:
    side = str(SCREEN)
    black = {"builtin": "flat", "rgb1": "0 0 0", "rgb2": "0 0 0"}  # rgb2 colours SCREEN_FACE
    SubElement(asset, "texture", black, name="screen", type="cube", width=side, height=side)
    glass = {"reflectance": ".7", "shininess": "1", "specular": "1", "texuniform": "false"}
    SubElement(asset, "material", glass, name="screen", texture="screen")
    television = SubElement(world, "body", name="television", pos="1.3 1.825 1.6")
    box = {"type": "box", "contype": "0", "conaffinity": "0"}
    SubElement(television, "geom", box, pos="0 .035 0", size="2.4 .03 1.4", rgba=".1 .1 .1 1")
    SubElement(television, "geom", box, name="screen", size="2.3 1e-6 1.34", material="screen")
    SubElement(television, "geom", box, pos="0 0 -1.5", size="2.6 .2 .05", rgba=".32 .137 .12 1")
