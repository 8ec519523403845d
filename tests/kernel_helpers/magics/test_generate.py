import pytest
from IPython.core.interactiveshell import InteractiveShell

from samovar.errors import Interrupted, SamovarError
from tests.fakes.fake_server import MODEL, SECONDS, FakeServer, Load, Reply, error_body
from tests.kernel_helpers.conftest import Front
from tests.kernel_helpers.magics.cells import assistant, generate, messages, refused, user

STEPS = [{"phase": "weights", "fraction": 0.5, "bytes_done": 269_000_000, "bytes_total": 538_000_000}]


def test_the_text_grows_in_one_output(
    shell: InteractiveShell, front: Front, fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samovar.display.SECONDS_PER_CHARACTER", 0)  # else two that come at once are one
    result = generate(shell, "Say hello")
    assert result.text == "Hello world!"
    assert front.texts() == ["Hello", "Hello world", "Hello world!"]
    assert len(front.states) == 1
    assert shell.user_ns["_"] is result


def test_the_load_is_shown_first_and_leaves_no_trace(
    shell: InteractiveShell, front: Front, fake_server: FakeServer
) -> None:
    fake_server.enqueue(Load(STEPS))
    generate(shell, "Say hello", "--model demo")
    progress, *_, last = front.texts()
    assert progress == "Loading demo  ████████████░░░░░░░░░░░░   50%  reading the weights  269 MB of 538 MB"
    assert last == "Hello world!"
    assert len(front.states) == 1


def test_in_a_terminal_the_text_is_written_once(
    shell: InteractiveShell, fake_server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_server.enqueue(Load(STEPS))
    generate(shell, "Say hello")
    out, err = capsys.readouterr()
    assert out.startswith("Hello world!\n")
    assert out.count("Hello") == 1
    assert "3 tokens" in out
    assert "50%" in err


def test_rendering(
    shell: InteractiveShell, front: Front, fake_server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(shell, "x", "--markdown")
    assert front.final() == [{"text/plain": "Hello world!", "text/markdown": "Hello world!"}]
    capsys.readouterr()
    generate(shell, "x", "--raw")
    assert len(front.states) == 1
    assert capsys.readouterr().out.startswith("Hello world!\n")


def test_a_later_cell_shows_the_text_again(
    shell: InteractiveShell, front: Front, fake_server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(shell, "x", "--out answer")
    assert "Hello" not in capsys.readouterr().out
    shell.run_cell("answer", store_history=True)
    assert "Hello world!" in capsys.readouterr().out


def test_a_model_writes_no_html(shell: InteractiveShell, front: Front, fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(["<img src=x> & more"]))
    generate(shell, "x")
    (state,) = front.final()
    assert "&lt;img src=x&gt; &amp; more" in state["text/html"]


def test_control_characters_are_not_shown_but_kept(
    shell: InteractiveShell, front: Front, fake_server: FakeServer
) -> None:
    fake_server.enqueue(Reply(["a\x1b[2J\r\n", "b\tc"]))
    assert generate(shell, "x").text == "a\x1b[2J\r\nb\tc"
    assert front.texts()[-1] == "a[2J\nb\tc"


def test_variables(shell: InteractiveShell, front: Front, fake_server: FakeServer) -> None:
    shell.run_cell("topic = 'tea'; end = 'END'; style = 'brief'")
    generate(shell, 'On {topic}: {{"a": 1}}\n\nMore', "--system 'Be {style}.' --stop {end} --stop '\\n'")
    (body,) = fake_server.asked_at("/v1/chat/completions")
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        user('On tea: {"a": 1}\n\nMore'),
    ]
    assert body["stop"] == ["END", "\n"]


def test_literal(shell: InteractiveShell, front: Front, fake_server: FakeServer) -> None:
    generate(shell, '{"a": {topic}} {{}} $HOME', "--literal --system {x}")
    assert messages(fake_server) == [
        [{"role": "system", "content": "{x}"}, user('{"a": {topic}} {{}} $HOME')],
    ]


def test_braces_of_code_get_the_way_out(shell: InteractiveShell) -> None:
    assert refused(shell, 'Mend {"a": 1}').endswith("With --literal the whole cell is sent as it stands.")


def test_options_reach_the_server(shell: InteractiveShell, front: Front, fake_server: FakeServer) -> None:
    generate(shell, "x", "-m demo --temperature 0.5 --top-p 0.9 --seed -3 --max-tokens 5 --ttl 0")
    (body,) = fake_server.asked_at("/v1/chat/completions")
    expected = {"model": "demo", "temperature": 0.5, "top_p": 0.9, "seed": -3, "max_tokens": 5, "ttl": 0}
    assert {name: body[name] for name in expected} == expected


def test_every_rule_of_sampling_reaches_the_server(
    shell: InteractiveShell, front: Front, fake_server: FakeServer
) -> None:
    expected = {
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.25,
        "repetition_penalty": 1.1,
    }
    options = [f"--{name.replace('_', '-')}={value}" for name, value in expected.items()]
    result = generate(shell, "x", " ".join(options))
    (body,) = fake_server.asked_at("/v1/chat/completions")
    assert {name: body.get(name) for name in expected} == expected
    assert {name: result.request.get(name) for name in expected} == expected


def test_one_percent_sign_is_not_enough(shell: InteractiveShell) -> None:
    with pytest.raises(SamovarError, match="begin the cell with %%generate"):
        shell.run_cell("%generate --temperature 1").raise_error()


@pytest.mark.parametrize("cell", ["%generate --help", "%%generate --help\nx", "%%generate -m demo -h\nx"])
def test_help(shell: InteractiveShell, cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = shell.run_cell(cell)
    assert done.success
    assert done.result is None
    assert "--temperature" in capsys.readouterr().out


def test_help_by_question_mark(shell: InteractiveShell) -> None:
    assert "--temperature" in str(shell.find_cell_magic("generate").__doc__)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--tempreature 1", "There is no option --tempreature. Did you mean --temperature?"),
        ("--max_tokens=3", "There is no option --max_tokens. Did you mean --max-tokens?"),
        ("--temp 1", "There is no option --temp. Did you mean --temperature?"),
        ("--zzz", "There is no option --zzz. %%generate --help lists the options."),
        (
            "--dtype flaot32",
            "--dtype: 'flaot32' is none of auto, float32, bfloat16, float16. Did you mean float32?",
        ),
        (
            "--quantization q4",
            "--quantization: 'q4' is none of auto, none, int8, int4, nf4. %%generate --help",
        ),
        ("--logit-bias x=1", "--logit-bias: 'x=1' is not TOKEN=BIAS, such as 50256=-100."),
        ("--n 0", "--n: 0 answers cannot be given; 1 is the least."),
        ("--chat tea -m a -m b", "--chat goes on with one answer of one model: leave --n and the other"),
        ("--json nothing_here", "--json: there is no variable nothing_here. Run the cell that defines it"),
        ("--json In", "--json: In is a list; a JSON schema is a dict or a pydantic class."),
        ("--temperature hot", "--temperature: 'hot' is not a number. %%generate --help"),
        ("--max-tokens 1.5", "--max-tokens: '1.5' is not a whole number."),
        ("--model", "-m/--model needs a value."),
        ("demo", "What is 'demo' here? The prompt goes below the line; a model is named by --model demo."),
        ("--new", "--new begins a conversation anew and needs --chat NAME."),
        ("--out 1x", "--out: '1x' cannot be the name of a variable."),
        ("--out class", "--out: 'class' cannot be the name of a variable."),
        ("--raw --markdown", "--markdown: not allowed with argument --raw."),
        ("--system don't", "A quote is not closed in the line of the magic."),
        ("--system {x1y}", "--system has {x1y}, but there is no variable x1y."),
    ],
)
def test_wrong_options(shell: InteractiveShell, line: str, told: str) -> None:
    assert told in refused(shell, "x", line)


def test_errors_are_told_in_one_line_and_without_a_trace(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_cell("%%generate --tempreature 1\nx")
    assert capsys.readouterr().out == (
        "BadOption: There is no option --tempreature. Did you mean --temperature?\n"
    )
    shell.run_cell("%%generate\n{nothing_here}")
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("cell", [" ", "\n \n", "{str()}"])
def test_an_empty_prompt(shell: InteractiveShell, cell: str) -> None:
    assert "There is no prompt" in refused(shell, cell)


def test_no_server(shell: InteractiveShell) -> None:
    assert "Start one with `samovar serve`" in refused(shell, "x")


@pytest.mark.parametrize(
    ("asked", "near"),
    [("dmeo", "demo"), ("HugingFaceTB/SmolLM2-135M-Instruct", MODEL), ("smollm2-135m-instruct", MODEL)],
)
def test_an_unknown_model_gets_the_nearest(
    shell: InteractiveShell, fake_server: FakeServer, asked: str, near: str
) -> None:
    fake_server.models = ["demo", MODEL]
    fake_server.enqueue(
        Load(error=error_body("model_not_found", "No such model. Run samovar pull.", "model"))
    )
    told = refused(shell, "x", f"-m {asked}")
    assert told == f"No such model. Run samovar pull. Did you mean {near}?"


def test_a_conversation_goes_on(shell: InteractiveShell, front: Front, fake_server: FakeServer) -> None:
    fake_server.enqueue(Reply(["One"]), Reply(["Two"]), Reply(["Three"]), Reply(["Four"]))
    system = {"role": "system", "content": "Be brief."}
    generate(shell, "first", "--chat tea --system 'Be brief.'")
    generate(shell, "second", "--chat tea")
    generate(shell, "elsewhere", "--chat coffee")
    generate(shell, "anew", "--chat tea --new")
    assert messages(fake_server) == [
        [system, user("first")],
        [system, user("first"), assistant("One"), user("second")],
        [user("elsewhere")],
        [user("anew")],
    ]


def test_what_broke_off_is_not_in_the_conversation(
    shell: InteractiveShell, front: Front, fake_server: FakeServer
) -> None:
    fake_server.enqueue(Reply(["One"], drop_after=1), Reply(["Two"]))
    refused(shell, "first", "--chat tea")
    generate(shell, "first again", "--chat tea")
    assert messages(fake_server)[1] == [user("first again")]


@pytest.mark.parametrize(
    "reply",
    [Reply(drop_after=2), Reply(fail_after=2, error=error_body("model_crashed", "The model crashed."))],
    ids=["lost", "crashed"],
)
def test_what_came_before_it_broke_is_kept(
    shell: InteractiveShell, front: Front, fake_server: FakeServer, reply: Reply
) -> None:
    fake_server.enqueue(reply)
    refused(shell, "x", "--out answer")
    assert shell.user_ns["answer"].text == "Hello world"
    assert shell.user_ns["_"] is shell.user_ns["answer"]
    text, summary = front.outputs()
    assert text == "Hello world"
    assert "broken off" in summary
    # `_` goes on working.
    assert generate(shell, "y") is shell.user_ns["_"]


def test_progress_does_not_stay_when_the_load_fails(
    shell: InteractiveShell, front: Front, fake_server: FakeServer
) -> None:
    fake_server.enqueue(Load(STEPS, error=error_body("model_load_failed", "config.json is broken.")))
    assert refused(shell, "x") == "config.json is broken."
    assert front.final() == [{"text/plain": "", "text/html": ""}]


def test_an_interrupt_keeps_the_text_and_leaves_the_server_free(
    shell: InteractiveShell, front: Front, fake_server: FakeServer, interrupt_when_hanging: None
) -> None:
    fake_server.enqueue(Reply(hang_after=2), Reply(["Two"]))
    with pytest.raises(Interrupted) as interrupted:  # an error, so that "Run All" stops here
        generate(shell, "first", "--chat tea --out answer")
    assert fake_server.disconnected.wait(SECONDS)
    result = interrupted.value.partial
    assert result.finish_reason == "interrupted"
    assert "Hello world".startswith(result.text)  # the signal may overtake what is on the wire
    if result.text:
        text, summary = front.outputs()
        assert (text, "interrupted" in summary) == (result.text, True)
        assert interrupted.value._render_traceback_() == ["Interrupted. What had come is in answer."]
    assert shell.user_ns["answer"] is shell.user_ns["_"] is result
    generate(shell, "second", "--chat tea")
    assert messages(fake_server)[1] == [user("second")]


def test_an_interrupt_while_loading(
    shell: InteractiveShell, front: Front, fake_server: FakeServer, interrupt_when_hanging: None
) -> None:
    fake_server.enqueue(Load(STEPS, hang=True))
    with pytest.raises(Interrupted, match=r"^Interrupted\.$"):
        generate(shell, "x")
    assert fake_server.disconnected.wait(SECONDS)
    assert (shell.user_ns["_"].text, shell.user_ns["_"].finish_reason) == ("", "interrupted")
    assert not fake_server.asked_at("/v1/chat/completions")
