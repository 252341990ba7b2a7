"""What pyproject.toml cannot say: a wheel holds the configuration, `conf`, as novelview/conf."""

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConf(build_py):
    """Copy `conf` beside the modules; an editable install reads the checkout's own."""

    def run(self) -> None:
        """Build the package, then its configuration."""
        super().run()
        if not self.editable_mode:
            self.copy_tree("conf", f"{self.build_lib}/novelview/conf")


setup(cmdclass={"build_py": BuildWithConf})
