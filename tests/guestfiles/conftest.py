"""Images for the conformance suite: each made once, filled, and looked at through the kernel."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.images import RECIPES, ImageSource, Recipe, make, mounted
from lab.trees import Fact, fill, look
from vircpt.guestfiles.filesystem import FileSystem
from vircpt.guestfiles.filesystems import open_in, recognise


@dataclass(frozen=True)
class Image:
    """A file system in an image, and what the kernel found in it."""

    recipe: Recipe
    path: Path
    truth: dict[bytes, Fact]

    def open(self) -> FileSystem:
        """As vircpt reads it."""
        source = ImageSource(self.path)
        type_ = recognise(source.pread(0x12000, 0))
        assert type_ is not None
        return open_in(source, type_)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Recipe], Image]]:
    """Makes an image on first use."""
    made: dict[str, Image] = {}
    home = tmp_path_factory.mktemp("images")

    def get(recipe: Recipe) -> Image:
        if recipe.name not in made:
            path = make(recipe, home / f"{recipe.name}.img")
            with mounted(recipe, path, home / "mnt") as where:
                fill(where, recipe.is_unix)
            with mounted(recipe, path, home / "mnt", read_only=True) as where:
                truth = look(where)
            made[recipe.name] = Image(recipe, path, truth)
        return made[recipe.name]

    yield get
    shutil.rmtree(home)


@pytest.fixture(params=RECIPES, ids=lambda recipe: recipe.name)
def image(request: pytest.FixtureRequest, images: Callable[[Recipe], Image]) -> Image:
    """Each file system in turn."""
    return images(request.param)
