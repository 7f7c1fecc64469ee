"""What is trained on, in what order, and what is kept between runs: mixture, settings, checkpoints and log."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from glimmer import DamageError, MismatchError, UsageError
from glimmer.reader.training.batches import _drawn
from glimmer.reader.training.checkpoints import Checkpoints, load_weights, save_weights
from glimmer.reader.training.log import COLUMNS, Scores, TrainLog, plot_log, read_log
from glimmer.reader.training.mixture import CYCLE, Mixture
from glimmer.reader.training.optimiser import OptimiserName, make_optimiser, make_schedule
from glimmer.reader.training.settings import TrainConfig
from glimmer.reader.training.step import TrainState
from glimmer.reader.training.trainer import EvaluationHistory

SMALLEST = """
model = "m"
memory = "w"
run = "r"
output = "o"
steps = 10
[[tasks]]
name = "nq"
file = "nq.jsonl"
"""


def test_a_draw_follows_from_seed_and_number_alone() -> None:
    draws = [Mixture([7, 30], [1.0, 2.0], 5).draw(number) for number in range(2500)]
    again = Mixture([7, 30], [1.0, 2.0], 5)
    assert [again.draw(number) for number in reversed(range(2500))] == draws[::-1]
    assert [Mixture([7, 30], [1.0, 2.0], 6).draw(number) for number in range(2500)] != draws


def test_every_example_of_a_task_is_met_once_an_epoch() -> None:
    mixture = Mixture([7, 30], [1.0, 2.0], 0)
    draws = [mixture.draw(number) for number in range(3 * CYCLE)]
    for task, size in enumerate((7, 30)):
        own = [draw for draw in draws if draw.task == task]
        assert [draw.epoch for draw in own] == [place // size for place in range(len(own))]
        for epoch in range(len(own) // size):
            met = [draw.example for draw in own if draw.epoch == epoch]
            assert sorted(met) == list(range(size))
    orders = {tuple(draw.example for draw in draws if draw.task == 0 and draw.epoch == e) for e in range(20)}
    assert len(orders) > 10


def test_tasks_are_drawn_at_their_rates_and_empty_ones_never() -> None:
    mixture = Mixture([5, 5, 0, 5], [6.0, 3.0, 100.0, 0.0001], 0)
    assert sum(mixture.shares) == CYCLE
    assert mixture.shares[2:] == (0, 1)
    tasks = Counter(mixture.draw(number).task for number in range(2 * CYCLE))
    assert tasks == {task: 2 * share for task, share in enumerate(mixture.shares) if share}
    assert tasks[0] / tasks[1] == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize(("sizes", "rates"), [([0, 0], [1.0, 1.0]), ([3], [0.0])])
def test_a_mixture_of_nothing_is_refused(sizes: list[int], rates: list[float]) -> None:
    with pytest.raises(UsageError):
        Mixture(sizes, rates, 0)


def test_the_smallest_file_has_the_papers_defaults(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(SMALLEST)
    config = TrainConfig.from_toml(tmp_path / "run.toml")
    assert (config.train, config.optimiser.dropout, config.optimiser.precision) == ("live", 0.1, "bfloat16")
    assert (config.evaluation, config.tasks[0].rate) == (None, 1.0)


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("[optimiser]\nlearnig_rate = 1", r"\[optimiser\] has no key 'learnig_rate'; there are: batch, accumulate"),
        ("[[tasks]]\nname = 'x'", r"\[tasks\] lacks the key 'file'"),
        ("[[tasks]]\nname = 'nq'\nfile = 'b'", "two tasks have the same name"),
        ("[data]\nselect = 2.5", "data.select must be a whole number, not 2.5"),
        ("[data]\ngold = 1", "data.gold must be true or false"),
        ("[data]\ncandidates = 2\nselect = 3", r"select \(3\) must lie between 1 and candidates \(2\)"),
        ("[losses]\nlikelihood = 'median'", "losses.likelihood must be one of mean, sum"),
        ("[reranker]\nlate_interaction = -1", r"\[reranker\]: reranker.late_interaction must not be negative"),
        ("[losses]\nscore_temperature = 0", r"\[losses\]: distillation temperatures must be above 0"),
        ("data = 1", "no key|not valid TOML|must be a section"),
        ("x =", "not valid TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, added: str, said: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f"{SMALLEST}{added}\n")
    with pytest.raises(UsageError, match=said) as error:
        TrainConfig.from_toml(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("[data]\ncandidates = 4\nselect = 1\npool = 3", r"pool \(3\) must be 0 or at least candidates \(4\)"),
        ("[optimiser]\nname = 'sgd'", "optimiser.name must be one of adafactor, adam"),
        ("[losses]\nranking_weight = -1", "must not be negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, added: str, said: str) -> None:
    (tmp_path / "run.toml").write_text(f"{SMALLEST}{added}\n")
    with pytest.raises(UsageError, match=said):
        TrainConfig.from_toml(tmp_path / "run.toml")


def test_the_rate_rises_stays_and_falls() -> None:
    rate = make_schedule(2.0, warmup=3, decay=4, steps=20)
    assert [float(rate(step)) for step in range(4)] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert [float(rate(step)) for step in (15, 16, 17, 19, 20)] == pytest.approx([2.0, 2.0, 1.5, 0.5, 0.0])
    assert float(make_schedule(2.0)(10_000)) == 2.0


@pytest.mark.parametrize("name", ["adafactor", "adam"])
def test_the_encoders_rate_is_its_own(name: OptimiserName) -> None:
    weights = {"decoder.a": jnp.ones((4, 4)), "encoder.layers.1.a": jnp.ones((4, 4))}
    gradients = {key: jnp.full((4, 4), 0.01) for key in weights}
    rule = make_optimiser(1e-2, name=name, encoder_rate=0.25)
    updates, _ = rule.update(gradients, rule.init(weights), weights)
    assert float(updates["decoder.a"].mean()) < 0
    np.testing.assert_allclose(updates["encoder.layers.1.a"], 0.25 * updates["decoder.a"], rtol=1e-6)


def test_a_batch_draws_from_the_pool_and_keeps_gold() -> None:
    gold = np.zeros(20, bool)
    gold[[3, 11]] = True
    drawn = [_drawn(gold, 4, np.random.default_rng(seed)) for seed in range(200)]
    assert all(len(places) == 4 and {3, 11} <= set(places.tolist()) for places in drawn)
    assert {place for places in drawn for place in places.tolist()} == set(range(20))
    assert _drawn(gold, 20, np.random.default_rng(0)).tolist() == list(range(20))
    everything = _drawn(np.ones(6, bool), 4, np.random.default_rng(0))
    assert len(everything) == 2  # gold has at most half the places


def some_state(step: int) -> TrainState:
    weights = {"decoder.a": jnp.arange(6.0).reshape(2, 3) + step, "reranker.b": jnp.ones(4)}
    return TrainState(jnp.int32(step), weights, make_optimiser(1e-3).init(weights))


def test_a_checkpoint_gives_back_what_was_saved_and_only_the_last_two_stay(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, {"seed": 1, "data": (1, 2)})
    assert kept.newest(some_state(0)) is None
    for step in (2, 4, 6):
        kept.save(some_state(step), {"since": step})
    assert kept.steps() == [4, 6]
    found = Checkpoints(tmp_path, {"seed": 1, "data": (1, 2)}).newest(some_state(0))
    assert found is not None
    assert found.notes == {"since": 6}
    assert int(found.state.step) == 6
    np.testing.assert_array_equal(found.state.weights["decoder.a"], some_state(6).weights["decoder.a"])


def test_a_checkpoint_of_another_run_or_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, {"seed": 1})
    kept.save(some_state(2), {})
    with pytest.raises(MismatchError, match="seed was 1, is 2"):
        Checkpoints(tmp_path, {"seed": 2}).newest(some_state(0))
    arrays = tmp_path / "step-00000002" / "state.safetensors"
    content = bytearray(arrays.read_bytes())
    content[-1] ^= 1
    arrays.write_bytes(content)
    with pytest.raises(DamageError, match="remove"):
        kept.newest(some_state(0))


def test_a_checkpoint_cut_while_it_was_written_is_not_there(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, {})
    kept.save(some_state(2), {})
    torn = tmp_path / ".tmp-step-00000004"
    torn.mkdir()
    (torn / "state.safetensors").write_bytes(b"half")
    assert kept.steps() == [2]
    kept.save(some_state(4), {})
    assert kept.steps() == [2, 4]
    assert not torn.exists()


def test_best_weights_are_kept_bit_for_bit(tmp_path: Path) -> None:
    weights = some_state(3).weights
    save_weights(tmp_path / "best" / "w.safetensors", weights)
    found = load_weights(tmp_path / "best" / "w.safetensors", weights)
    np.testing.assert_array_equal(found["decoder.a"], weights["decoder.a"])


def test_a_resumed_log_drops_what_follows_its_checkpoint(tmp_path: Path) -> None:
    log = TrainLog(tmp_path / "log.csv", after=0)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 1 / step, "cross_entropy": 0.5})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("4,0.1")  # a crash in the middle of a line
    TrainLog(tmp_path / "log.csv", after=2).write({"step": 3, "loss": 0.125, "em": 0.5})
    rows = read_log(tmp_path / "log.csv")
    assert tuple(rows[0]) == COLUMNS
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert float(rows[1]["loss"]) == 1 / 2
    assert rows[2]["em"] == "0.5"
    plot_log(tmp_path / "log.csv", tmp_path / "log.svg")
    assert "polyline" in (tmp_path / "log.svg").read_text()


def test_training_stops_after_patience_evaluations_without_a_better_exact_match() -> None:
    history = EvaluationHistory()
    for step, em in enumerate((0.1, 0.3, 0.3, 0.2), start=1):
        history = history.after(step, Scores(em=em, f1=0.0, recall1_before=0.0, recall1_after=0.0), patience=2)
    assert history.stopped
    assert history.best_step == 2
