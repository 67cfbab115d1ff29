"""The page that `dvc plots` fills, with the scripts that draw in it, so that it needs no network and can be sent.

    npm ci --prefix tests/browser && python -m tools.plots_page

DVC's own page asks a server for Vega. This writes `.dvc/plots/page.html`, which `.dvc/config` names, from the packages
that `tests/browser/package.json` pins; to run it is only needed for other versions of them.
"""

import re
from pathlib import Path

from stages.runtime.files import read_json, write_file
from stages.runtime.provenance import ROOT

PAGE = Path(".dvc/plots/page.html")
PACKAGES = Path("tests/browser/node_modules")
SCRIPTS = ("vega", "vega-lite", "vega-embed")

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh_tag}
<title>DVC plots</title>
<!-- tools/plots_page.py wrote this page. What follows is @VERSIONS@, under this licence;
they contain parts of D3, under the ISC licence, and of TopoJSON, under a BSD licence.

@LICENCE@
-->
@SCRIPTS@
<script>
"use strict";
// DVC calls this once for each plot. What has no data is said to have none. Vega-Lite warns of panels with axes of
// their own, which is no news to who looks. Nothing can be sent to an editor elsewhere.
window.vegaEmbed = ((embed) => (place, spec) => {
  if (Object.keys(spec).length) {
    const logger = vega.logger(vega.Error);
    const drawn = /vega-lite/.test(spec.$schema) ? vegaLite.compile(spec, {logger}).spec : spec;
    const actions = {export: true, source: false, compiled: false, editor: false};
    return embed(place, drawn, {renderer: "svg", actions});
  }
  const plot = document.querySelector(place);
  plot.className = "empty";
  plot.textContent = `${plot.id}: no data; where its file is missing, dvc repro makes it`;
})(window.vegaEmbed);
</script>
<style>
body { margin: 1.5rem; font: 14px sans-serif; color: #222; background: #fff; }
body > div { max-width: 100%; margin: 0 2rem 2rem 0; overflow-x: auto; vertical-align: top; }
img { max-width: 100%; }
.empty { color: #666; }
</style>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def page(packages: Path) -> str:
    """The page.

    Args:
        packages: the folder that `npm ci` fills.

    Raises:
        OSError: a package is not there.
        ValueError: a script has words that would end it in a page, or that DVC would replace.
    """
    scripts, versions = [], []
    for name in SCRIPTS:
        text = (packages / name / "build" / f"{name}.min.js").read_text(encoding="utf-8")
        text = re.sub(r"\n//# sourceMappingURL=.*\n?$", "", text)
        if found := re.search(r"</script|<!--|\{(scripts|plot_divs|refresh_tag)\}", text):
            raise ValueError(f"{name}: {found[0]!r} cannot stand in the page")
        scripts.append(f"<script>{text}</script>")
        versions.append(f"{name} {read_json(packages / name / 'package.json')['version']}")
    filled = {
        "@VERSIONS@": ", ".join(versions),
        "@LICENCE@": (packages / SCRIPTS[-1] / "LICENSE").read_text(encoding="utf-8").strip(),
        "@SCRIPTS@": "\n".join(scripts),
    }
    return re.sub("|".join(filled), lambda found: filled[found[0]], TEMPLATE)


if __name__ == "__main__":
    with write_file(ROOT / PAGE) as unfinished:
        unfinished.write_text(page(ROOT / PACKAGES), encoding="utf-8")
