"""Leaves the tests that lie beside the dataset builders out of the wheel.

All else is in setup.cfg.
"""

import setuptools
from setuptools.command.build_py import build_py


class BuildWithoutTests(build_py):
  """Packs every module but `*_test.py`."""

  def find_package_modules(self, package, package_dir):
    """Lists (package, module, file) of one package."""
    modules = super().find_package_modules(package, package_dir)
    return [found for found in modules if not found[1].endswith('_test')]


setuptools.setup(cmdclass={'build_py': BuildWithoutTests})
