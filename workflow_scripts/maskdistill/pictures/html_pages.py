"""HTML pages, filled in from the package's Jinja templates."""

from collections.abc import Callable, Mapping

import jinja2

from workflow_scripts.maskdistill.repository import REPOSITORY


def render(
    template: str, *, filters: Mapping[str, Callable] | None = None, **values: object
) -> str:
    """Fill in a template; values are escaped unless they are `Markup`.

    Args:
        template: path of the template in the repository. The calling code must have this path as
            one literal string, so that the digest of its code includes the template.
        filters: further filters of the template.
        values: variables of the template; a missing one is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(REPOSITORY),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(template).render(**values)
