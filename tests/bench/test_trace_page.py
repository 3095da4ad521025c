"""The page of a trace: what stands in it, and how it behaves in a browser, where there is one.

`pip install -e '.[browser]'` and Debian's chromium and chromium-driver make the latter run.

Read next: bench/trace/versions.py.
"""

import base64
import gzip
import json
import re
import shutil

import pytest

from bench.trace.cases import case_of
from bench.trace.page import page
from bench.trace.versions import versions, without

KERNELS = {"maxout": "maxout_forward", "sums": "linear_backward_filter"}


@pytest.fixture(scope="module")
def made(double):
    """{name: what the page of a kernel shows}."""
    return {name: versions(case_of(operation), "fp32") for name, operation in KERNELS.items()}


def test_a_page_is_one_file_with_its_data_and_asks_for_nothing_else(made):
    text = page(made["sums"])
    assert not re.search(r"https?:|\ssrc=|<link|url\(|@import|\bfetch\(", text)
    assert "default-src 'none'" in text and len(text) < 3e6
    packed = re.search(r'id="data">([^<]*)<', text)[1]
    assert json.loads(gzip.decompress(base64.b64decode(packed))) == json.loads(
        json.dumps(made["sums"])
    )


def test_two_runs_differ_in_the_order_of_threads_alone(made):
    one, other = (run["trace"]["launches"] for run in made["sums"][0]["runs"])
    for first, second in zip(one, other, strict=True):
        assert first | {"order": []} == second | {"order": []}
        assert [thread for thread, _ in first["order"]] != [t for t, _ in second["order"]]


def test_without_a_barrier_the_sums_are_wrong_and_without_a_fault_nothing_is(made):
    assert [run["results"] for run in made["sums"][0]["runs"]] == [[], []]
    assert len(made["maxout"]) == 1  # it has no barrier to leave out
    for run in made["sums"][1]["runs"]:
        assert [result["name"] for result in run["results"]] == ["db"]
        assert run["results"][0]["wrong"] == run["results"][0]["elements"] == 32


def test_one_barrier_is_left_out_of_the_text():
    text = '#line 1 "a.cuh"\nf();\n__syncthreads();\n#line 1 "b.cu"\n__syncthreads();\n'
    assert without("a.cuh", 2)(text) == text.replace("__syncthreads();", ";  // no barrier", 1)
    assert without("c.cu", 2)(text) == text


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs pip install selenium")
    driver, program = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and program):
        pytest.skip("no chromium and chromedriver here; apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


class Shown:
    """A page that a browser shows."""

    def __init__(self, browser, path, width: int, scheme: str = "light"):
        self.browser, self.size = browser, {"width": width, "height": 900}
        look = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", look)
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            self.size | {"deviceScaleFactor": 1, "mobile": width < 500},
        )
        browser.get(path.as_uri())
        self.wait(lambda: self.text("step"))

    def run(self, script: str):
        return self.browser.execute_script("return " + script)

    def find(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def text(self, name: str) -> str:
        return self.find(f"#{name}").text

    def wait(self, true) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.browser, 20).until(lambda _: true())

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def point(self, selector: str, x: float, y: float) -> str:
        """What the page says of a point, from the corner of a canvas."""
        from selenium.webdriver import ActionChains

        canvas = self.find(selector)
        self.run(f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})")
        middle = canvas.size["width"] // 2, canvas.size["height"] // 2
        moved = ActionChains(self.browser).move_to_element_with_offset(
            canvas, int(x - middle[0]), int(y - middle[1])
        )
        moved.perform()
        return self.text("hover")

    def step(self) -> int:
        return int(re.match(r"step (\d+) of", self.text("step"))[1]) - 1


@pytest.fixture
def show(browser, made, tmp_path):
    def open_page(name: str, width: int = 1280, scheme: str = "light") -> Shown:
        (tmp_path / "page.html").write_text(page(made[name]))
        return Shown(browser, tmp_path / "page.html", width, scheme)

    yield open_page
    said = [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"]
    assert said == []  # by the console, whatever a test did


def test_slider_keys_and_buttons_move_the_step(show):
    shown = show("maxout")
    assert shown.step() == 0
    shown.press("\ue014", "\ue014", "\ue014", "\ue012")  # right three times, left
    assert shown.step() == 2 == int(shown.find("#slider").get_property("value"))
    shown.find("#on").click()
    assert shown.step() == 3
    shown.find("#slider").click()  # in its middle
    last = int(shown.find("#slider").get_property("max"))
    assert abs(shown.step() - last / 2) <= 1
    shown.press("\ue010")  # end
    assert shown.step() == last


def test_play_goes_on_by_itself_to_the_end_and_pauses(show):
    shown = show("maxout")
    shown.find("#play").click()
    shown.wait(lambda: shown.step() > 2)
    shown.find("#play").click()
    at = shown.step()
    assert shown.text("play") == "Play" and at < int(shown.find("#slider").get_property("max"))
    shown.find("#title").click()
    shown.press(" ")
    shown.wait(lambda: shown.step() == int(shown.find("#slider").get_property("max")))
    assert shown.text("play") == "Play"


def test_a_cell_and_a_thread_name_who_touched_what(show, made):
    """Against the document: the first access of the first warp."""
    shown, launch = show("maxout"), made["maxout"][0]["runs"][0]["trace"]["launches"][0]
    steps = launch["warps"][0]["steps"]
    at = next(i for i, step in enumerate(steps) if len(step) > 2)
    place, _, array, elements, *_ = steps[at]
    name, line = launch["arrays"][array]["name"], launch["places"][place]["line"][1]
    assert "not touched" in shown.point("#arrays canvas", 2, 2)
    shown.press(*["\ue014"] * at)
    said = shown.point("#arrays canvas", 2, 2)
    assert said.startswith(f"{name}[{elements[0]}]: thread 0 (warp 0, lane 0), load of 16 bytes")
    assert f"in step {at + 1}, " in said and said.endswith(f":{line}")
    width = shown.find("#chart").size["width"] / len(steps)
    said = shown.point("#chart", (at + 0.5) * width, 3)
    assert re.match(rf"thread \d \(warp 0, lane \d\), step {at + 1}: load {name}\[\d+\]", said)
    lines = shown.run("[...document.querySelectorAll('#source .now')].map((e) => e.innerText)")
    assert line in [int(text.split()[0]) for text in lines]


def test_in_every_order_the_page_knows_of_every_element_by_the_end(show, made):
    shown = show("sums")
    for _ in range(3):
        shown.press("\ue010")
        touched = shown.run("grids.map((grid) => grid.last.size)")
        arrays = made["sums"][0]["runs"][0]["trace"]["launches"][0]["arrays"]
        assert touched == [array["elements"] for array in arrays]
        shown.find("#order").click()
    assert shown.text("ordered").startswith("warps in step")


def test_warps_wait_for_one_another_at_a_barrier(show):
    shown = show("sums")
    frames = shown.run(
        "frames.filter((f) => f.some((e) => e.kind === 'barrier'))"
        ".map((f) => [f.length, f.flatMap((e) => e.threads).length])"
    )
    assert frames == [[8, 256]] * 6


def test_a_missing_barrier_shows_its_wrong_result(show):
    shown = show("sums")
    assert shown.text("results") == ""
    shown.run("document.getElementById('version').focus()")
    shown.press("\ue015")  # down: the next version
    shown.wait(lambda: "32 of 32 values are wrong" in shown.text("results"))


def test_the_source_of_a_header_shows_where_the_threads_are_in_it(show):
    shown = show("sums")
    shown.run("document.getElementById('file').focus()")
    shown.press("\ue015")  # down: columns.cuh, whose sum has the barriers
    assert shown.find("#file").get_property("value").endswith("columns.cuh")
    shown.run("go(frames.findIndex((f) => f.some((e) => e.kind === 'barrier')))")
    assert "__syncthreads();" in shown.find("#source .now code").text


def test_a_finger_on_the_threads_moves_the_step(show):
    shown = show("maxout", 360)
    box = shown.run(
        "(document.getElementById('chart').scrollIntoView({block: 'center'}),"
        " document.getElementById('chart').getBoundingClientRect().toJSON())"
    )
    spot = {"x": box["x"] + box["width"] / 2, "y": box["y"] + 20}
    for kind, spots in (("touchStart", [spot]), ("touchEnd", [])):
        shown.browser.execute_cdp_cmd(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": spots}
        )
    last = int(shown.find("#slider").get_property("max"))
    shown.wait(lambda: abs(shown.step() - last / 2) <= 1)


@pytest.mark.parametrize("width", [360, 1280])
def test_a_page_fits_its_width_in_light_and_in_dark(show, width):
    grounds = []
    for scheme in ("light", "dark"):
        shown = show("sums", width, scheme)
        assert shown.run("document.documentElement.scrollWidth") <= width
        grounds.append(shown.run("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 23, 26)"]
