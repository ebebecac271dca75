"""Pages out of templates: whatever comes from a model or a file is text, and nothing else."""

from __future__ import annotations

from typing import Any

import fxhead
from fxhead.show.visible import visible


def page(template: str, **values: Any) -> str:
    """The page that a template of this folder makes of the values."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        """Without the characters that turn text round or hide it."""
        is_text = isinstance(value, str) and not isinstance(value, Markup)
        return visible(value, keep="\n") if is_text else value

    environment = Environment(
        loader=PackageLoader("fxhead.page", "."),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=fxhead.__version__, **values)
