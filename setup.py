"""Everything is configured in settings.ini, which nbdev reads too."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

root = Path(__file__).resolve().parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(root / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    keywords=settings["keywords"].split(),
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Natural Language :: English",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=["transfer_nbs"],
    package_data={"transfer_nbs": ["py.typed", "weights/*", "templates/*"]},
    include_package_data=True,
    python_requires=f">={settings['min_python']}",
    install_requires=settings["requirements"].split(),
    extras_require={
        "dev": [requirement for kind in ("dev", "notebooks", "docs", "onnx", "review", "tensorboard", "timm") for requirement in settings[f"{kind}_requirements"].split()],
        **{kind: settings[f"{kind}_requirements"].split() for kind in ("docs", "kaggle", "notebooks", "onnx", "review", "tensorboard", "timm")},
    },
    entry_points={"console_scripts": settings["console_scripts"].split()},
    zip_safe=False,
)
