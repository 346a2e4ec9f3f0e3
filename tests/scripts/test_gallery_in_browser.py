"""The gallery, opened from disk in a headless Chromium."""

import functools
import http.server
import json
import shutil
import threading
import urllib.parse

import pytest

from tests import browser, results_tree

pytestmark = pytest.mark.skipif(
    browser.CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    started = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def page(chromium, gallery):
    """A function that opens the gallery at an address after #.

    In the end, Chromium must not have reported an error, and the page must not have loaded anything
    from elsewhere.
    """
    chromium.resize(1300, 900)
    chromium.problems.clear()
    chromium.requests.clear()

    def open_(address: str = "", folder=gallery):
        chromium.open(f"file://{folder}/index.html#{address}")
        chromium.until("document.getElementById('count').textContent")
        return chromium

    yield open_
    assert chromium.problems == []
    assert [r for r in chromium.requests if not r.startswith(("file://", "data:", "about:"))] == []


def names(page) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('.tile')].map((tile) => tile.title)")


def choose(page, field: str, value: str) -> None:
    page.evaluate(
        f"(() => {{ const field = document.getElementById('form')['{field}'];"
        f" field.value = {json.dumps(value)};"
        " field.dispatchEvent(new Event('change', { bubbles: true }));"
        " field.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


def elements_made(page, address: str) -> int:
    """How many elements are created when the gallery's address changes."""
    return page.evaluate(
        "new Promise((done) => { let made = 0; const create = document.createElement;"
        " document.createElement = (...tag) => { made += 1; return create.apply(document, tag); };"
        " addEventListener('hashchange', () => requestAnimationFrame(() => {"
        " delete document.createElement; done(made); }), { once: true });"
        f" location.hash = {json.dumps(address)}; }})"
    )


def click(page, selector: str) -> None:
    page.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


def fragment(page) -> str:
    """The address after #, which the page updates within 350 ms."""
    return page.evaluate(
        "new Promise((done) => setTimeout(() => done(location.hash), 400))"
    ).removeprefix("#")


def address(page) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(fragment(page), keep_blank_values=True))


def key_of(index_name: str) -> str:
    number = [n for names_ in results_tree.NAMES.values() for n in names_].index(index_name)
    split = "train" if index_name in results_tree.NAMES["train"] else "val"
    return f"{split}/{number}"


def test_all_images_are_shown_with_thumbnails_that_load(page):
    opened = page()
    everything = [name for found in results_tree.NAMES.values() for name in found]
    assert names(opened) == sorted(everything)
    opened.until("[...document.querySelectorAll('.tile img')].every((img) => img.naturalWidth)")
    assert len(opened.evaluate("[...document.querySelectorAll('.tile img')].map(() => 1)")) == 7
    reason = opened.evaluate("document.querySelector('.reason').textContent")
    assert reason == "truncated or damaged: <b>cut</b>"


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"split": "train"}, [0, 1, 2, 3]),
        ({"status": "rejected"}, [7]),
        ({"status": "no candidate"}, [4]),
        ({"status": "ok"}, [1, 2, 3, 5, 6]),
        ({"text": "evil"}, [5]),
        ({"text": "3"}, [3]),
        ({"score-least": "0.7"}, [3, 5, 6]),
        ({"score-most": "0.6"}, [0]),
        ({"agreement-least": "0.99", "split": "val"}, [4, 5, 6]),
        ({"status": "ok", "split": "train", "score-least": "0.7"}, [3]),
    ],
    ids=str,
)
def test_filters(page, choices, expected):
    opened = page()
    for field, value in choices.items():
        choose(opened, field, value)
    everything = [name for found in results_tree.NAMES.values() for name in found]
    wanted = sorted(everything[i] for i in expected)
    opened.until(f"document.querySelector('#count strong').textContent === '{len(expected)}'")
    assert names(opened) == wanted
    # A page that is opened at this address shows the same.
    assert names(page(fragment(opened))) == wanted


def test_clusters_are_those_of_the_stage(page):
    opened = page("stage=masks")
    choose(opened, "label", "2")
    opened.until("document.querySelectorAll('.tile').length === 4")
    assert names(opened) == [f"JPEGImages/{i}.jpg" for i in (0, 2, 4, 6)]
    click(opened, "#stages [value=mask_rcnn]")
    # The cluster stays chosen; image 4 has no confident candidate, so it is not shown.
    opened.until("document.querySelectorAll('.tile').length === 3")
    click(opened, "#stages [value=ground_truth]")
    opened.until("document.getElementById('label-kind').textContent === 'Class'")
    assert "label" not in address(opened)
    options = opened.evaluate("[...document.getElementById('form').label].map((o) => o.text)")
    assert options == ["all", "cat (2)", "dog (1)"]


def test_order_by_agreement_and_score(page):
    worst = names(page("stage=mask_rcnn&split=val&order=wrong"))
    assert worst[0] == results_tree.WITHOUT_CANDIDATE
    assert worst[-1] == results_tree.REJECTED
    best = names(page("order=best"))
    assert best[:2] == ["JPEGImages/6.jpg", results_tree.EVIL]
    assert set(best[-2:]) == {results_tree.WITHOUT_CANDIDATE, results_tree.REJECTED}


def test_images_that_have_the_stage_come_first(page):
    # Only images of `val` have predictions. The rejected image has no results of any stage.
    shown = names(page("stage=segmentation"))
    segmented = sorted(set(results_tree.NAMES["val"]) - {results_tree.REJECTED})
    assert shown[:3] == segmented
    assert shown[3:] == sorted([*results_tree.NAMES["train"], results_tree.REJECTED])
    opened = page("stage=segmentation")
    missing = "[...document.querySelectorAll('.frame')].map((frame) => frame.title)"
    told = "This image has no result of the stage “Segmentation”"
    assert opened.evaluate(missing) == [""] * 3 + [told] * 4 + [""]


def test_captions_say_what_the_grid_is_about(page):
    opened = page("stage=mask_rcnn&split=val&order=wrong")
    values = (
        "[...document.querySelectorAll('.tile')]"
        ".map((tile) => tile.querySelector('.value')?.textContent)"
    )
    assert opened.evaluate(values) == ["38.8 %", "100.0 %", "100.0 %", None]
    assert page("stage=candidates&split=val&order=best").evaluate(values) == [
        "0.86",
        "0.81",
        None,
        None,
    ]
    assert page("split=val").evaluate(values) == [None] * 4


def test_overlays_are_toggled_by_mouse_and_keys(page):
    opened = page(f"image={key_of('JPEGImages/6.jpg')}&stage=masks")
    opened.until("document.querySelectorAll('.picture img').length === 2")
    layers = "[...document.querySelectorAll('.picture img.layer')].map((img) => img.alt)"
    assert opened.evaluate(layers) == ["Initial masks"]
    click(opened, "#layers [value=ground_truth]")
    opened.until("document.querySelectorAll('.picture img.layer').length === 2")
    assert opened.evaluate(layers) == ["Initial masks", "Ground truth"]
    assert address(opened)["layers"] == "masks,ground_truth"
    opened.press("1")
    opened.until("document.querySelectorAll('.picture img.layer').length === 1")
    opened.press("4")
    opened.until("document.querySelectorAll('.picture img.layer').length === 2")
    assert opened.evaluate(layers) == ["Segmentation", "Ground truth"]
    opened.press("0")
    opened.until("document.querySelectorAll('.picture img.layer').length === 0")
    opened.press("2")
    opened.until("document.querySelectorAll('.picture rect').length === 1")
    assert opened.evaluate("document.querySelector('.score').textContent") == "2 · 0.86"
    legend = "document.querySelector('#legend').textContent"
    assert opened.evaluate(legend) == "cluster 2 → cat"
    opened.evaluate(
        "(() => { const floor = document.getElementById('floor'); floor.value = 0;"
        " floor.dispatchEvent(new Event('input')); })()"
    )
    assert opened.evaluate("document.querySelectorAll('.picture rect').length") == 2
    assert opened.evaluate(legend) == "cluster 1 → dogcluster 2 → cat"


def test_an_overlay_lies_where_the_object_is(page):
    opened = page(f"image={key_of('JPEGImages/6.jpg')}&layers=ground_truth")
    opened.until("document.querySelector('.picture img.layer')?.complete")
    painted = opened.evaluate(
        "(() => { const canvas = document.createElement('canvas');"
        " const layer = document.querySelector('.picture img.layer');"
        " [canvas.width, canvas.height] = [layer.naturalWidth, layer.naturalHeight];"
        " const pen = canvas.getContext('2d', { willReadFrequently: true });"
        " pen.drawImage(layer, 0, 0);"
        " const at = (x, y) => pen.getImageData(x, y, 1, 1).data[3] > 0;"
        " return [at(30, 15), at(30, 8), at(10, 15), at(30, 35)]; })()"
    )
    assert painted == [True, False, False, False]
    boxes = opened.evaluate(
        "[...document.querySelectorAll('.picture img')].map((img) => {"
        " const box = img.getBoundingClientRect();"
        " return [box.left, box.top, box.width, box.height]; })"
    )
    assert boxes[0] == boxes[1]
    assert boxes[0][2] / boxes[0][3] == pytest.approx(1.5, rel=0.01)


def test_stages_side_by_side(page):
    opened = page(f"image={key_of('JPEGImages/6.jpg')}")
    opened.until("document.querySelector('.picture')")
    opened.press("c")
    opened.until("document.querySelectorAll('.panels figure').length === 6")
    captions = opened.evaluate(
        "[...document.querySelectorAll('.panels figcaption span:first-child')]"
        ".map((caption) => caption.textContent)"
    )
    stages = ["Initial masks", "Candidates", "Mask R-CNN", "Segmentation", "Ground truth"]
    assert captions == ["Image", *stages]
    assert address(opened)["view"] == "compare"
    click(opened, "#layers [value=candidates]")
    opened.until("document.querySelectorAll('.panels figure').length === 5")


def test_keys_lead_from_image_to_image_and_back_to_the_grid(page):
    opened = page("split=train")
    opened.press("ArrowRight")
    opened.press("ArrowRight")
    focused = "document.activeElement.title"
    assert opened.evaluate(focused) == "JPEGImages/1.jpg"
    opened.press("Enter")
    opened.until("document.getElementById('viewer').open")
    assert address(opened)["image"] == key_of("JPEGImages/1.jpg")
    opened.press("ArrowRight")
    opened.until("document.getElementById('title').textContent === 'JPEGImages/2.jpg'")
    assert opened.evaluate("document.getElementById('position').textContent") == "3 of 4"
    opened.press("ArrowRight")
    opened.press("ArrowRight")  # at the last image this changes nothing
    opened.until("document.getElementById('title').textContent === 'JPEGImages/3.jpg'")
    assert opened.evaluate("document.getElementById('next').disabled")
    opened.press("Escape")
    opened.until("!document.getElementById('viewer').open")
    assert opened.evaluate(focused) == "JPEGImages/3.jpg"
    opened.press("s")
    opened.until("document.querySelector('#stages [value=masks]').ariaChecked === 'true'")
    opened.press("/")
    assert opened.evaluate("document.activeElement.name") == "text"


def test_back_closes_the_image(page):
    opened = page("stage=masks")
    click(opened, ".tile")
    opened.until("document.getElementById('viewer').open")
    opened.evaluate("history.back()")
    opened.until("!document.getElementById('viewer').open")
    assert address(opened) == {"stage": "masks"}


def test_a_deep_link_opens_an_image_as_it_was(page):
    link = f"stage=segmentation&split=val&image={key_of('JPEGImages/6.jpg')}&layers=masks"
    opened = page(link)
    opened.until("document.querySelectorAll('.picture img.layer').length === 1")
    assert opened.evaluate("document.querySelector('.picture img.layer').alt") == "Initial masks"
    assert opened.evaluate("document.title") == "JPEGImages/6.jpg – <i>tiny</i>"
    assert opened.evaluate("document.getElementById('count').textContent") == "4 of 8 images"
    facts = opened.evaluate("document.getElementById('facts').textContent")
    assert "val, shard 0001" in facts
    assert "0.860" in facts
    # Invalid values in the address are ignored.
    nonsense = page("stage=nothing&image=val/999&page=-3&score=x&order=y&view=z")
    assert len(names(nonsense)) == 8
    assert not nonsense.evaluate("document.getElementById('viewer').open")


def test_file_names_and_reasons_are_text(page):
    opened = page(f"image={key_of(results_tree.EVIL)}")
    opened.until("document.querySelector('.picture')")
    assert opened.evaluate("document.getElementById('title').textContent") == results_tree.EVIL
    assert opened.evaluate("document.querySelectorAll('[onerror], b, i').length") == 0
    assert opened.evaluate("document.getElementById('dataset').textContent") == "<i>tiny</i>"
    opened = page(f"image={key_of(results_tree.REJECTED)}")
    opened.until("document.querySelector('.message')")
    assert "<b>cut</b>" in opened.evaluate("document.querySelector('.message').textContent")


def test_a_legend_entry_leads_to_all_images_of_its_cluster(page):
    opened = page(f"image={key_of('JPEGImages/6.jpg')}&layers=segmentation")
    opened.until("document.querySelector('#legend button')")
    assert opened.evaluate("document.querySelector('#legend').textContent") == "cluster 2 → cat"
    click(opened, "#legend button")
    opened.until("!document.getElementById('viewer').open")
    shown = {"stage": "segmentation", "label": "2", "layers": "segmentation"}
    assert address(opened) == shown
    assert names(opened) == ["JPEGImages/4.jpg", "JPEGImages/6.jpg"]


@pytest.mark.parametrize("link", ["", "stage=masks", "image=val/6", "image=val/5&view=compare"])
def test_a_phone_needs_no_scrolling_sideways(page, chromium, link):
    chromium.resize(360, 740, phone=True)
    opened = page(link)
    if "image" in link:
        opened.until("document.querySelector('.picture')")
        body = "document.getElementById('viewer').firstElementChild"
        assert opened.evaluate(f"{body}.scrollWidth") <= 360
        sizes = opened.evaluate(
            "[...document.querySelectorAll('.buttons button')].map((b) => b.offsetWidth)"
        )
        assert min(sizes) >= 36  # large enough for fingers
        wide = opened.evaluate("document.querySelector('.picture').offsetWidth")
        assert wide > (120 if "compare" in link else 300)
    else:
        assert not opened.evaluate("document.getElementById('filters').open")
        assert not opened.evaluate("document.getElementById('form').checkVisibility()")
        opened.until("document.querySelectorAll('.tile').length === 8")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360


def test_light_and_dark(page, chromium):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page().evaluate(ground)
    chromium.resize(1300, 900, dark=True)
    dark = page().evaluate(ground)
    assert light == "rgb(252, 252, 250)"
    assert dark == "rgb(20, 23, 26)"


def test_a_missing_script_is_named(page, chromium, gallery, tmp_path):
    copied = shutil.copytree(gallery, tmp_path / "copy")
    (copied / "images" / "val" / "0001" / "6.js").unlink()
    opened = page("image=val/6", copied)
    opened.until("document.querySelector('.message')")
    message = opened.evaluate("document.querySelector('.message').textContent")
    assert "images/val/0001/6.js cannot be loaded" in message
    chromium.problems.clear()  # Chromium reports the missing file, too


def test_a_server_shows_the_same(page, chromium, gallery):
    handler = functools.partial(QuietHandler, directory=gallery)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}/"
        chromium.open(f"{base}index.html#image=val/6&layers=segmentation")
        chromium.until("document.querySelector('.picture img.layer')?.complete")
        assert len(names(chromium)) == 8
        server.shutdown()
    assert all(r.startswith((base, "data:", "about:")) for r in chromium.requests)
    chromium.requests.clear()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, *_) -> None:
        pass


def test_ten_thousand_images_by_pages(page, many):
    opened = page("", many / "all" / "gallery")
    assert opened.evaluate("document.getElementById('count').textContent") == (
        "10,000 of 10,000 images"
    )
    assert len(names(opened)) == 60
    assert "of 167" in opened.evaluate("document.querySelector('.pager').textContent")
    opened.press("n")
    opened.until("document.querySelector('.tile').title === '00060.png'")
    opened = page("page=167", many / "all" / "gallery")
    assert names(opened)[-1] == "09999.png"
    assert len(names(opened)) == 10_000 - 166 * 60
    opened.until("[...document.querySelectorAll('.tile img')].some((img) => img.naturalWidth)")
    choose(opened, "score-least", "0.95")
    opened.until("document.querySelector('#count strong').textContent === '500'")
    # Drawing a page must be fast, so it may not create more elements than with 500 images.
    filtered = "stage=masks&label=2&order=best"
    made = elements_made(opened, filtered)
    assert opened.evaluate("document.querySelector('#count strong').textContent") == "3,333"
    opened = page("", many / "one" / "gallery")
    assert made == elements_made(opened, filtered)
    assert made > 60


def test_a_slider_in_motion_and_a_key_held_down(page, many):
    """The page must change its address less often, because browsers limit such changes."""
    opened = page("", many / "all" / "gallery")
    opened.evaluate(
        "(async () => { const slider = document.getElementById('form')['score-least'];"
        " for (let i = 0; i < 300; i++) {"
        " slider.value = Math.abs((i * 3) % 160 - 80) / 100;"
        " slider.dispatchEvent(new Event('input', { bubbles: true }));"
        " await new Promise((done) => setTimeout(done, 5)); }"
        " slider.value = 0.95;"
        " slider.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )
    assert opened.evaluate("document.querySelector('#count strong').textContent") == "500"
    assert address(opened) == {"score": "0.95-1"}
    opened = page("image=train/0", many / "all" / "gallery")
    for _ in range(250):
        opened.press("ArrowRight")
    assert opened.evaluate("document.getElementById('title').textContent") == "00250.png"
    assert address(opened) == {"image": "train/250"}
    # All 250 images are one entry of the browser's history.
    opened.press("Escape")
    opened.until("!document.getElementById('viewer').open")
    opened.evaluate("history.back()")
    opened.until("document.getElementById('viewer').open")
    assert opened.evaluate("document.getElementById('title').textContent") == "00250.png"


def move(page, x: float, y: float, event: str) -> None:
    """Send a pointer event at a place of the map; x and y are shares of its size."""
    page.evaluate(
        "(() => { const canvas = document.querySelector('#map canvas');"
        " const box = canvas.getBoundingClientRect();"
        f" const at = [14 + {x} * (box.width - 28), 14 + {y} * (box.height - 28)];"
        f" canvas.dispatchEvent(new MouseEvent('{event}', {{ bubbles: true,"
        " clientX: box.left + at[0], clientY: box.top + at[1] })); })()"
    )


def test_the_map_shows_masks_and_opens_their_images(page):
    shown = page()
    click(shown, "#arrangement [value=map]")
    assert shown.evaluate("document.getElementById('grid').hidden") is True
    assert address(shown)["arrangement"] == "map"
    move(shown, 0.9, 0.1, "pointermove")
    assert shown.evaluate("document.getElementById('spot').hidden") is True
    move(shown, 0.0, 0.5, "pointermove")  # here is the mask of image 0
    assert shown.evaluate("document.getElementById('spot').hidden") is False
    assert "0.jpg" in shown.evaluate("document.getElementById('spot').textContent")
    shown.until("document.querySelector('#spot img').naturalWidth > 0")
    move(shown, 0.0, 0.5, "click")
    assert shown.evaluate("document.getElementById('viewer').open") is True
    assert shown.evaluate("document.getElementById('title').textContent").endswith("0.jpg")


def test_what_filters_leave_out_cannot_be_pointed_at_on_the_map(page):
    shown = page("arrangement=map&text=1.jpg")
    move(shown, 0.0, 0.5, "pointermove")
    assert shown.evaluate("document.getElementById('spot').hidden") is True
    assert names(page("text=1.jpg")) == ["JPEGImages/1.jpg"]


def test_a_gallery_without_a_map_has_no_choice(page, gallery, tmp_path):
    folder = tmp_path / "without"
    shutil.copytree(gallery, folder)
    path = folder / "index.js"
    text = path.read_text()
    path.write_text(text[: text.index('"map":[')] + '"map":[]});\n')
    shown = page("arrangement=map", folder=folder)
    assert shown.evaluate("document.getElementById('arrangement').hidden") is True
    assert shown.evaluate("document.getElementById('grid').hidden") is False
