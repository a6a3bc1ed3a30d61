"""The public surface is a list: exported names of every room, flags of every command, what an import loads.

Run: python checks/surface.py          (prints every difference from checks/surface.toml, exits 1 on one)
     python checks/surface.py --write  (accepts the surface as it is)
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FROZEN = ROOT / "checks" / "surface.toml"
LIGHT_FORBIDDEN = ("torch", "polars", "transformers", "sklearn", "scipy", "sqlalchemy", "peft")


def exported() -> dict[str, list[str]]:
    """`__all__` of the package and of every room, every name resolvable."""
    rooms = ["metier"] + [
        f"metier.{path.parent.name}" for path in sorted((ROOT / "src" / "metier").glob("*/__init__.py"))
    ]
    names = {}
    for room in rooms:
        module = importlib.import_module(room)
        public = list(module.__all__)
        for name in public:
            getattr(module, name)
        names[room] = sorted(public)
    return names


def flags() -> dict[str, list[str]]:
    """The options of every verb."""
    import typer

    from metier.cli import app

    command: Any = typer.main.get_command(app)
    surface = {"metier": sorted(option for item in command.params for option in item.opts)}
    for name, verb in sorted(command.commands.items()):
        surface[f"metier {name}"] = sorted(option for item in verb.params for option in item.opts)
    return surface


def heavy_imports() -> list[str]:
    """Heavy packages that `import metier` and the command line load, which must be none."""
    code = "import sys, json, metier, metier.cli; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    return [name for name in LIGHT_FORBIDDEN if name in loaded]


def as_toml(surface: dict[str, dict[str, list[str]]]) -> str:
    """The surface as the text of checks/surface.toml."""
    lines = ["# Written by `python checks/surface.py --write`. A new name or flag is added here in the same change."]
    for table, entries in surface.items():
        lines += ["", f"[{table}]"]
        lines += [f"{json.dumps(key)} = {json.dumps(names)}" for key, names in entries.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Compare with the frozen surface; 1 when it differs or an import is too heavy."""
    surface = {"exported": exported(), "flags": flags()}
    if "--write" in sys.argv:
        FROZEN.write_text(as_toml(surface), encoding="utf-8")
    frozen = tomllib.loads(FROZEN.read_text(encoding="utf-8"))
    breaches = [f"import metier loads {name}; import it where it is used." for name in heavy_imports()]
    for table, entries in surface.items():
        for key in sorted({*entries, *frozen[table]}):
            now, then = set(entries.get(key, [])), set(frozen[table].get(key, []))
            breaches += [f"{table} of {key}: this adds {name!r}; add it to checks/surface.toml." for name in now - then]
            breaches += [f"{table} of {key}: this removes {name!r}." for name in then - now]
    for breach in breaches:
        print(breach)
    print(f"surface: {len(breaches)} differences")
    return bool(breaches)


if __name__ == "__main__":
    sys.exit(main())
