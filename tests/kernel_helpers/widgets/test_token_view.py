from samovar.widgets import TokenView
from tests.fakes.fake_server import MODEL, SECONDS, Load, error_body
from tests.fakes.fake_workbench import FakeWorkbench
from tests.kernel_helpers.widgets.conftest import Screen, Watch, press, text_of


def test_a_text_is_scored_when_it_is_shown(server: FakeWorkbench, until: Watch, screen: Screen) -> None:
    server.enqueue(Load([{"phase": "weights", "fraction": 0.5}]))
    view = TokenView("The <sky> is green", "demo", alternatives=3)
    view._ipython_display_()
    until(view, lambda: "perplexity" in text_of(view))
    assert " &lt;sky&gt;</span>" in text_of(view)
    assert MODEL in text_of(view)
    assert server.asked_at("/v1/completions") == [
        {"model": "demo", "prompt": "The <sky> is green", "max_tokens": 0, "echo": True, "logprobs": 3}
    ]
    view.close()
    assert "perplexity" in screen.pictures()[0]
    assert view.join(SECONDS)


def test_a_token_chosen_by_its_number_tells_more(server: FakeWorkbench, until: Watch) -> None:
    view = TokenView()
    assert view.place.disabled
    view.text.value = "The sky is green"
    press(view, "Score")
    until(view, lambda: not view.place.disabled)
    assert view.place.max == 4
    view.place.value = 4
    assert "Likeliest here: &#x27; blue&#x27; 90.0%" in view.detail.value
    view.close()


def test_colour_is_not_all_that_tells_tokens_apart(server: FakeWorkbench, until: Watch) -> None:
    view = TokenView()
    view.text.value = "The sky is green"
    press(view, "Score")
    until(view, lambda: "perplexity" in text_of(view))
    for style in ("dotted", "dashed", "double"):
        assert f"{style} currentColor" in view.tokens.value
    assert 'data-more="&#x27; green&#x27;: 0.2%, surprising. Likeliest here:' in view.tokens.value
    view.close()


def test_what_goes_wrong_is_said(server: FakeWorkbench, until: Watch) -> None:
    view = TokenView()
    press(view, "Score")
    assert "Write a text first." in text_of(view)
    server.enqueue(Load(error=error_body("model_not_found", "No such model.")))
    view.text.value = "x"
    press(view, "Score")
    until(view, lambda: "Error: No such model." in text_of(view))
    until(view, lambda: not view.score_button.disabled)
    view.close()
