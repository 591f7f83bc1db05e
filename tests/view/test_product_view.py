"""The query–key view, in a real browser: numbers that add up, and are those of Python."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import clearhead as ch
from clearhead.scope.record import Record
from clearhead.scope.sighting import Sighting
from clearhead.view import page
from clearhead.view.fitting import saved
from clearhead.view.scene import Scene
from tests.view.browsing import Open, at, find, press, texts, until

LEFT, RIGHT, HOME = "\ue012", "\ue014", "\ue011"
IDS = torch.tensor([[3, 5, 6, 7, 8, 5, 6, 7, 9, 5, 6, 11]])
T = IDS.shape[1]


@pytest.fixture(scope="module")
def turned(llama: torch.nn.Module) -> Any:
    """What a model that turns q and k showed."""
    with torch.no_grad(), ch.watch(llama) as seen:
        llama(input_ids=IDS)
    return seen


@pytest.fixture(scope="module")
def all_at_once() -> Record:
    """An attention with softcap, bias by distance and sinks, without positions; and one that shows its scores alone."""
    torch.manual_seed(2)
    record, i, j = Record(), torch.arange(T)[:, None], torch.arange(T)
    q, k = 4 * torch.randn(1, 4, T, 8), 4 * torch.randn(1, 2, T, 8)
    more = {"softcap": 6.0, "sinks": torch.tensor([0.0, 1.0, 2.0, 3.0]), "bias": -0.25 * (i - j).abs()[None, None]}
    record.add(Sighting("attn", 0, "self", 0, q=q, k=k, v=k, mask=(j <= i)[None, None], scale=0.2, **more))
    record.add(Sighting("scores", 1, "self", 0, scores=torch.randn(1, 2, T, T)))
    return record


@pytest.fixture(scope="module")
def pages(turned: Any, all_at_once: Record, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("product")
    contents, blocks = saved(scene := Scene(all_at_once), 10_000_000)
    blocks |= {name: scene.block(name) for name in ("vectors-0-2", "vectors-1-1")}
    return {
        "turned": page.write(folder / "turned.html", *saved(Scene(turned), 10_000_000)),
        "all": page.write(folder / "all.html", contents, blocks),
    }


def clear(record: Record) -> tuple[int, int]:
    """A head whose vectors a saved page holds."""
    name = next(name for name in Scene(record).worth_saving() if name.startswith("vectors-"))
    layer, head = map(int, name.split("-")[1:])
    return layer, head


def steps(browser: Any) -> dict[str, float]:
    """The parts of the equation, as exact as the page has them."""
    until(browser, lambda: find(browser, ".step"))
    script = "return [...document.querySelectorAll('.step')].map(({ dataset }) => [dataset.step, +dataset.value])"
    return dict(browser.execute_script(script))


def table(browser: Any) -> dict[str, list[float]]:
    script = """return [...document.querySelectorAll('.sum-table tbody tr')].map((row) =>
        [row.cells[0].textContent, [...row.cells].slice(1).map((cell) => +cell.dataset.value)])"""
    return dict(browser.execute_script(script))


def shown(text: str) -> float:
    return float(text.replace("−", "-").rstrip("%\u202f<>"))


@pytest.mark.browser
def test_the_numbers_add_up_and_are_those_of_python(visit: Open, turned: Any, pages: dict[str, Path]) -> None:
    layer, head = clear(turned)
    browser = visit(pages["turned"], f"#view=product&layer={layer}&head={head}&query=9&at=6")
    found = steps(browser)
    call = turned[layer].steps[0].weights.call
    q, k = call.q[0, head, 9].double(), call.k[0, head // 2, 6].double()
    sum_, lse = float(q @ k), float(turned[layer].statistics.lse[0, head, 9])
    assert found["sum"] == pytest.approx(sum_, rel=1e-3, abs=1e-3)
    assert found["scale"] == pytest.approx(8**-0.5)
    assert found["scaled"] == pytest.approx(sum_ * 8**-0.5, rel=1e-3, abs=1e-3)
    assert found["log-sum-exp"] == pytest.approx(lse, abs=1e-4)
    assert found["weight"] == pytest.approx(float(turned[layer].rows([9], head)[0, 6]), rel=5e-3)
    assert found["weight"] == pytest.approx(math.exp(found["scaled"] - found["log-sum-exp"]), rel=1e-4)

    words = [shown(text) for text in texts(browser, ".step .sum") if "%" not in text for text in [text.lstrip("×=− ")]]
    assert words[0] == pytest.approx(abs(found["sum"]), abs=0.0051)
    told = table(browser)
    total = told.pop("Σ")
    for column in range(3):
        assert sum(row[column] for row in told.values()) == pytest.approx(total[column], abs=1e-6)
    assert total[2] == pytest.approx(found["sum"], abs=1e-6)
    cells = [shown(text) for text in texts(browser, ".sum-table tbody tr td:last-child")]
    assert sum(cells[:-1]) == pytest.approx(cells[-1], abs=0.0051 * len(cells))


@pytest.mark.browser
def test_position_s_part_is_what_turning_adds(visit: Open, turned: Any, pages: dict[str, Path]) -> None:
    layer, head = clear(turned)
    browser = visit(pages["turned"], f"#view=product&layer={layer}&head={head}&query=9&at=6")
    steps(browser)
    call, rotary = turned[layer].steps[0].weights.call, turned.rotary[turned[layer].name]
    q, k = (x.double() for x in (call.q[0, head, 9:10], call.k[0, head // 2, 6:7]))
    q0, k0 = rotary.turned(q, torch.tensor([-9.0])), rotary.turned(k, torch.tensor([-6.0]))
    products, apart = (q * k)[0], (q0 * k0)[0]
    told = table(browser)
    assert list(told)[-1] == "Σ" and len(told) == 5
    for m in range(4):
        here, side_by_side = (float(x[[m, m + 4]].sum()) for x in (products, apart))
        assert told[f"{m}, {m + 4}"] == pytest.approx([side_by_side, here - side_by_side, here], rel=2e-3, abs=5e-3)
    assert abs(told["Σ"][1]) > 0.1


@pytest.mark.browser
def test_every_bar_and_every_score_of_the_row_is_drawn(visit: Open, turned: Any, pages: dict[str, Path]) -> None:
    layer, head = clear(turned)
    browser = visit(pages["turned"], f"#view=product&layer={layer}&head={head}&query=9&at=6")
    steps(browser)
    until(browser, lambda: find(browser, "[data-strip=scores]"))
    script = "return [...document.querySelectorAll(arguments[0])].map((bar) => +bar.dataset[arguments[1]])"
    call = turned[layer].steps[0].weights.call
    q, k = call.q[0, head, 9].double(), call.k[0, head // 2].double()
    order = [dimension for m in range(4) for dimension in (m, m + 4)]
    for name, values in {"q": q, "k": k[6], "q·k": q * k[6]}.items():
        bars = browser.execute_script(script, f"[data-strip='{name}'] rect", "value")
        assert bars == pytest.approx(values[order].tolist(), rel=1e-3, abs=1e-2)
    scores = browser.execute_script(script, "[data-strip=scores] [data-score]", "score")
    assert scores == pytest.approx((k[:10] @ q * 8**-0.5).tolist(), rel=1e-3, abs=5e-3)
    find(browser, ".order button")[1].click()
    until(browser, lambda: "strips=size" in at(browser))
    until(browser, lambda: texts(browser, ".order [aria-pressed=true]") == ["Largest first"])
    sizes = [abs(x) for x in browser.execute_script(script, "[data-strip=pairs] rect", "value")]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.browser
def test_softcap_bias_and_sinks_have_their_places(visit: Open, all_at_once: Record, pages: dict[str, Path]) -> None:
    browser = visit(pages["all"], "#view=product&layer=0&head=2&query=10&at=4")
    found = steps(browser)
    assert list(found) == [
        *("sum", "scale", "scaled", "capped", "bias", "score", "log-sum-exp", "logit", "weight"),
    ]
    assert found["capped"] == pytest.approx(6 * math.tanh(found["scaled"] / 6))
    assert found["bias"] == pytest.approx(-0.25 * 6)
    assert found["score"] == pytest.approx(found["capped"] + found["bias"])
    assert found["weight"] == pytest.approx(float(all_at_once[0].rows([10], 2)[0, 4]), rel=5e-3)
    assert "log of Σ e^score over the row and its sink" in texts(browser, ".step small")
    assert "position’s part" not in " ".join(texts(browser, ".sum-table th"))


@pytest.mark.browser
def test_scores_without_vectors_are_shown_as_scores(visit: Open, all_at_once: Record, pages: dict[str, Path]) -> None:
    browser = visit(pages["all"], "#view=product&layer=1&head=1&query=3&at=2")
    assert steps(browser)["weight"] == pytest.approx(float(all_at_once[1].rows([3], 1)[0, 2]), rel=1e-4)
    assert list(steps(browser)) == ["score", "log-sum-exp", "logit", "weight"]
    assert "no q and no k" in " ".join(texts(browser, ".reading"))


@pytest.mark.browser
def test_without_a_wish_a_telling_pair_is_shown(visit: Open, turned: Any, pages: dict[str, Path]) -> None:
    layer, head = clear(turned)
    browser = visit(pages["turned"], f"#view=product&layer={layer}&head={head}")
    found = steps(browser)["weight"]
    w = turned[layer].rows(range(T), head)
    telling = w.masked_fill(torch.eye(T, dtype=torch.bool), 0)[:, 1:]
    assert found == pytest.approx(float(telling.max()), rel=5e-3)


@pytest.mark.browser
def test_query_and_key_are_chosen_by_click_and_by_keyboard(visit: Open, turned: Any, pages: dict[str, Path]) -> None:
    layer, head = clear(turned)
    browser = visit(pages["turned"], f"#view=product&layer={layer}&head={head}&query=9&at=6")
    steps(browser)
    rows = turned[layer].rows(range(T), head)

    def weight_is(query: int, key: int) -> bool:
        return steps(browser)["weight"] == pytest.approx(float(rows[query, key]), rel=5e-3, abs=1e-9)

    lists = "[aria-label='{}'] [data-position='{}']"
    find(browser, lists.format("Keys that this query sees", 3))[0].click()
    until(browser, lambda: "at=3" in at(browser) and weight_is(9, 3))
    find(browser, "[aria-label='Keys that this query sees'] [tabindex='0']")[0].send_keys(RIGHT)
    until(browser, lambda: "at=4" in at(browser) and weight_is(9, 4))
    press(browser, LEFT)
    until(browser, lambda: "at=3" in at(browser) and weight_is(9, 3))
    press(browser, HOME)
    until(browser, lambda: "at=0" in at(browser) and weight_is(9, 0))
    assert f"head={head}" in at(browser)
    find(browser, lists.format("Queries, the tokens that look", 7))[0].click()
    until(browser, lambda: "query=7" in at(browser) and weight_is(7, 0))
    assert len(find(browser, "[aria-label='Keys that this query sees'] [data-position]")) == 8


@pytest.mark.browser
def test_a_page_without_the_head_s_vectors_says_so_and_names_those_it_has(
    visit: Open, turned: Any, pages: dict[str, Path]
) -> None:
    held = [tuple(map(int, n.split("-")[1:])) for n in Scene(turned).worth_saving() if n.startswith("vectors-")]
    layer, head = next((layer, head) for layer in range(3) for head in range(4) if (layer, head) not in held)
    browser = visit(pages["turned"], f"#view=product&layer={layer}&head={head}")
    until(browser, lambda: find(browser, ".lacking p"))
    assert "left out to keep it small" in texts(browser, ".lacking p")[0]
    assert texts(browser, ".there button") == [f"layer {one} · head {other}" for one, other in sorted(held)]
    assert not find(browser, ".step")
    find(browser, ".there button")[0].click()
    until(browser, lambda: find(browser, ".step"))


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_it_fits_every_width(visit: Open, turned: Any, pages: dict[str, Path], width: int) -> None:
    layer, head = clear(turned)
    browser = visit(pages["turned"], f"#view=product&layer={layer}&head={head}&query=9&at=6", width=width)
    steps(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert find(browser, ".sum-table")[0].is_displayed()
