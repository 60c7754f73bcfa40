"""lm-evaluation-harness with the model "sluice", against a scripted server."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from clients.errors import HarnessError
from tests.clients.fake_sluice import Failure, FakeSluice, model_info, serving

if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("needs lm-eval; pip install -e '.[lm-eval]'", allow_module_level=True)

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from clients.harness.__main__ import main
from clients.harness.model import SluiceLM

ROOT = Path(__file__).parents[3]
GREEDY: dict[str, Any] = {"until": ["\n"], "max_gen_toks": 50, "do_sample": False}

TASK = """
task: sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
fewshot_split: test
output_type: generate_until
doc_to_text: "Q: {{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n\\n"]
  max_gen_toks: 40
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def add_up(prompt: str) -> str:
    """Answers "2+3=" of the last line; wrong where the first number is 7."""
    left, right = re.findall(r"(\d+)\+(\d+)=", prompt)[-1]
    return f"{int(left) + int(right) + (left == '7')}\n\nQ: and so on"


def instance(prompt: Any, **settings: Any) -> Instance:
    return Instance("generate_until", {}, (prompt, GREEDY | settings), 0, ("sums", 0, 1))


def generate(fake: FakeSluice, *asked: Instance, **arguments: Any) -> list[str]:
    with serving(fake) as target:
        return SluiceLM(server=target, **arguments).generate_until(list(asked), disable_tqdm=True)


EVALUATE = """
import json, sys
import clients.harness.model
import lm_eval
from lm_eval.tasks import TaskManager

folder, arguments, more = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
tasks = TaskManager(include_path=folder, include_defaults=False)  # its own take 12 s to read
results = lm_eval.simple_evaluate(
    model="sluice", model_args=arguments, tasks=["sums"], task_manager=tasks,
    log_samples=False, bootstrap_iters=0, **more,
)
print(json.dumps(results["results"]["sums"]))
"""


def evaluate(tmp_path: Path, fake: FakeSluice, **more: Any) -> dict[str, Any]:
    """Results of the task TASK, run by lm_eval in a process of its own, without network."""
    problems = [{"question": f"{i}+{i}=", "answer": str(2 * i)} for i in range(10)]
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    (tmp_path / "sums.yaml").write_text(TASK.format(file=data))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    with serving(fake) as target:
        arguments = f"server={target},budget=96,policy=window,concurrency=4"
        command = [sys.executable, "-c", EVALUATE, str(tmp_path), arguments, json.dumps(more)]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | offline, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_local_task(tmp_path: Path) -> None:
    fake = FakeSluice(answer=add_up)
    results = evaluate(tmp_path, fake, num_fewshot=2)
    assert results["exact_match,none"] == pytest.approx(0.9)
    assert len(fake.requests) == 10
    assert {r.kv_budget.max_tokens for r in fake.requests} == {96}
    assert {r.kv_budget.policy for r in fake.requests} == {"window"}
    assert {tuple(r.stopping.stop) for r in fake.requests} == {("\n\n",)}
    assert {r.stopping.max_tokens for r in fake.requests} == {40}
    assert all(r.text.count("=") == 3 for r in fake.requests), "two examples and the question"


@pytest.mark.slow
def test_a_chat_is_rendered_by_the_server(tmp_path: Path) -> None:
    fake = FakeSluice(answer=add_up, info=model_info(has_chat_template=True))
    more = {"apply_chat_template": True, "system_instruction": "add up", "num_fewshot": 1}
    results = evaluate(tmp_path, fake, **more, fewshot_as_multiturn=True)
    assert results["exact_match,none"] == pytest.approx(0.9)
    [roles] = {tuple(m.role for m in r.chat.messages) for r in fake.requests}
    assert roles == ("system", "user", "assistant", "user")


def test_the_command_knows_the_model_and_says_failures_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cli_evaluate() -> None:
        get_model("sluice")(server="127.0.0.1:1").loglikelihood([])

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", cli_evaluate)
    assert main() == 1
    assert re.fullmatch(r"sluice: this task scores given text .*\n", capsys.readouterr().err)


def test_the_model_is_registered() -> None:
    assert get_model("sluice") is SluiceLM


def test_answers_are_in_the_order_of_the_requests() -> None:
    asked = [instance(f"{i}+1=") for i in range(40)]
    fake = FakeSluice(answer=add_up)
    found = generate(fake, *asked, concurrency=8)
    assert found == [str(i + 1 + (i == 7)) for i in range(40)]
    assert 1 < fake.most_running <= 8


def test_text_is_cut_at_stops_that_the_server_cannot_take() -> None:
    fake = FakeSluice(answer=lambda _: f"an{'x' * 300}swer")
    assert generate(fake, instance("q", until=["x" * 300])) == ["an"]
    assert not fake.requests[0].stopping.stop


def test_only_what_follows_thinking_is_the_answer_and_stops_count_only_there() -> None:
    fake = FakeSluice(answer=lambda _: "well\nhm\n</think>\n\n42\nand more")
    assert generate(fake, instance("q"), think_end_token="</think>") == ["42"]
    assert not fake.requests[0].stopping.stop
    assert generate(fake, instance("q")) == ["well"]


def test_the_default_length_is_an_argument() -> None:
    fake = FakeSluice()
    without = Instance("generate_until", {}, ("q", {"until": []}), 0, ("sums", 0, 1))
    generate(fake, without, max_tokens=99)
    generate(fake, without)
    assert [r.stopping.max_tokens for r in fake.requests] == [99, 256]


def test_no_answer_is_made_up_where_a_request_fails() -> None:
    bad = Failure(grpc.StatusCode.INTERNAL, "logits were not finite")
    fake = FakeSluice(fail=lambda request: bad if request.text == "5" else None)
    with pytest.raises(HarnessError, match=r"request 6 of 9 to .* failed: INTERNAL: logits"):
        generate(fake, *(instance(str(i)) for i in range(9)), concurrency=1)
    assert len(fake.requests) == 6


def test_unavailable_is_tried_again() -> None:
    fake = FakeSluice(answer=add_up, failures=[Failure(grpc.StatusCode.UNAVAILABLE)])
    assert generate(fake, instance("1+1=")) == ["2"]
    assert len(fake.requests) == 2


def test_cut_answers_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    generate(FakeSluice(truncated=True), instance("a"), instance("b"))
    assert "2 of 2 answers were cut at max_gen_toks" in caplog.text


def test_nothing_asked_is_nothing_answered() -> None:
    assert SluiceLM(server="127.0.0.1:1").generate_until([], disable_tqdm=True) == []


def test_tasks_that_score_given_text_are_refused_with_a_way_out() -> None:
    model = SluiceLM(server="127.0.0.1:1")
    for call in (model.loglikelihood, model.loglikelihood_rolling):
        with pytest.raises(HarnessError, match="output_type generate_until"):
            call([])


def test_images_are_refused() -> None:
    asked = Instance("generate_until", {}, ("q", GREEDY, {"visual": []}), 0, ("pictures", 0, 1))
    with pytest.raises(HarnessError, match="task pictures sends more than text"):
        generate(FakeSluice(), asked)


def test_chat_that_cannot_be_is_refused() -> None:
    with serving(FakeSluice()) as target:
        model = SluiceLM(server=target)
        with pytest.raises(HarnessError, match="script has no chat template"):
            model.chat_template(True)
        with pytest.raises(HarnessError, match="do not name it"):
            model.chat_template("mine")
        assert model.chat_template(False) == ""
    with pytest.raises(HarnessError, match="gen_prefix"):
        model.apply_chat_template([], add_generation_prompt=False)


def test_what_every_run_passes_is_accepted() -> None:
    arguments = {"server": "a:1", "budget": 96}
    extra = {"batch_size": 1, "max_batch_size": None, "device": "cpu"}
    assert SluiceLM.create_from_arg_obj(arguments, extra).arguments.budget == 96
    text = SluiceLM.create_from_arg_string("server=a:1,budget=96", extra)
    assert text.arguments == SluiceLM(**arguments).arguments
