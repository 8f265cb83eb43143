"""The packages: those that are found, and the recipes' files, which pyproject.toml cannot add to a search."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

RECIPES = "lit_instruct.recipes"


class BuildPy(build_py):
    """Leaves out the scripts that fill the tables of recipes/README.md."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Returns the modules of a package; the recipes have none."""
        return [] if package == RECIPES else super().find_package_modules(package, package_dir)


setup(
    packages=[*find_packages(include=["lit_instruct*", "data_modules*"]), RECIPES],
    cmdclass={"build_py": BuildPy},
)
