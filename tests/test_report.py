import json
import math
import re

import pytest
from fabricated import EXPERIMENTS, GAUSSIAN_RATE, PCA, SAMPLERS, STRENGTHS, experiment, make_params, write_results

from randomz.claims import QUESTIONS, Estimate, lookup
from randomz.figures import interval, number
from randomz.files import write_json
from randomz.report import answer, in_order, metrics_json, read_study, report_md, write_report
from randomz.sensitivity import caught

MODELS = ("ae", "vae", "vqvae", "vae-beta4")


def make(folder, *args, **options):
    params = make_params(*args)
    write_results(folder, params, **options)
    return params, read_study(params, folder / "reports", folder / "artifacts")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def made(folder):
    return make(folder, MODELS)


@pytest.fixture(scope="module")
def text(made):
    params, study = made
    figures = ["random_z", "codebook", "kl", "bounds", *(f"samplers_{name}" for name in params.models)]
    return report_md(study, params, figures)


def leaves(tree, path=""):
    for key, value in tree.items():
        if isinstance(value, dict) and "mean" not in value:
            yield from leaves(value, f"{path}{key}/")
        else:
            yield path + key, value


def tables(text):
    "The tables of a page as lists of rows, each a mapping from the header's words to the cell."
    for block in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
        lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.strip().splitlines()]
        header, rule, *rows = lines
        assert {len(line) for line in lines} == {len(header)}
        assert all(re.fullmatch(":--|--:", cell) for cell in rule)
        yield header, rows


def test_metrics_are_those_of_the_stages_before_and_the_claims(made, folder):
    _, study = made
    assert list(study.metrics) == [
        "judge", "floor", "controls", "pca", "gaussian_rate", "study", "models", "experiments", "claims",
    ]  # fmt: skip
    assert tuple(study.models) == MODELS
    yardstick = json.loads((folder / "reports/yardstick.json").read_text())
    assert {key: study.metrics[key] for key in yardstick} == yardstick
    for name in MODELS:
        assert study.models[name] == json.loads((folder / f"reports/{name}/metrics.json").read_text())
    assert study.metrics["study"] == json.loads((folder / "reports/study.json").read_text())
    assert set(study.metrics["experiments"]) == set(EXPERIMENTS)
    for name, tree in study.metrics["experiments"].items():
        assert tree == json.loads((folder / f"reports/experiments/{name}.json").read_text())
        assert tuple(tree["models"]) == EXPERIMENTS[name]
    assert len(study.metrics["claims"]) == len(QUESTIONS)


def test_the_text_of_the_metrics_is_json_with_the_same_numbers(made):
    _, study = made
    text = metrics_json(study.metrics)
    assert json.loads(text) == study.metrics
    value = study.models["vae"]["reconstruction"]["mse"]["per_seed"]
    assert f'"per_seed": [{", ".join(map(repr, value))}]' in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        metrics_json({"x": float("nan")})


def test_keys_stand_in_one_order_whatever_the_order_of_the_files(made):
    _, study = made
    for model in study.models.values():
        shuffled = json.loads(json.dumps(model, sort_keys=True))
        assert json.dumps(in_order(shuffled)) == json.dumps(model)
        assert list(model)[:2] == ["kind", "parameters"]
    assert list(study.models["vae"]["kl"]["bound"]) == ["1", "10", "100", "1000"]
    assert list(in_order({"zeta": 1, "new": 2, "mean": 3})) == ["mean", "new", "zeta"]
    assert [list(step) for step in in_order({"steps": [{"kid": 1, "strength": 2}]})["steps"]] == [["strength", "kid"]]


def test_every_metric_of_every_model_stands_in_the_report(made, text):
    params, study = made
    cells = {}
    for header, rows in tables(text):
        for row in rows:
            for column, cell in zip(header[1:], row[1:], strict=True):
                cells.setdefault((row[0], column), []).append(cell)
    for name in params.models:
        for path, value in leaves(study.models[name]):
            *section, metric = path.split("/")
            if path in {"kind", "parameters"}:
                continue
            if section[0] == "sampling":
                mean = number(value["mean"])
                shown = f"{mean} ± "
                assert cells[f"`{name}` {section[1]}", metric][0].startswith(shown), path
            elif "bound" in section:
                assert cells[f"`{name}` bound", f"k = {metric}"] == [interval(Estimate.from_json(value))]
            elif "bound_standard_error" in section:
                assert (f"`{name}` its standard error over images", f"k = {metric}") in cells
            else:
                expected = interval(Estimate.from_json(value)) if isinstance(value, dict) else number(value)
                assert expected in cells[f"`{name}`", metric], path
        assert f"{study.models[name]['parameters']:,} parameters" in text


def test_floor_and_controls_stand_beside_the_models(made, text):
    _, study = made
    tabled = list(tables(text))
    for header, rows in (tabled[0], tabled[2]):
        names = [row[0] for row in rows]
        assert "real digits (floor)" in names
        assert {f"control: {name.replace('_', ' ')}" for name in study.metrics["controls"]} <= set(names)
        assert len(header) >= 8
    header, rows = tabled[2]
    noise = dict(zip(header, next(row for row in rows if row[0] == "control: noise"), strict=True))
    ratio = study.metrics["controls"]["noise"]["fd"] / study.metrics["floor"]["fd"]
    assert noise["fd_ratio"] == number(ratio)


def test_the_headline_names_the_best_prior_that_is_fitted(text):
    header, rows = next(tables(text))
    best = {row[0]: row[header.index("best fitted prior")] for row in rows}
    assert best["`ae`"] == "flow"
    assert best["`vae`"] == best["`vae-beta4`"] == "gmm"
    assert best["`vqvae`"] == "autoregressive"


def test_each_claim_has_its_verdict_and_evidence(made, text):
    _, study = made
    _, rows = list(tables(text))[1]
    verdict = {row[0]: row[2] for row in rows}
    evidence = {row[0]: row[3] for row in rows}
    assert len(rows) == len(QUESTIONS)
    for claim in study.metrics["claims"]:
        assert verdict[f"`{claim['id']}`"] == ("**holds**" if claim["holds"] else "**does not hold**")
    uniform = Estimate.from_json(lookup(study.metrics, "models/vqvae/sampling/uniform/fd_ratio"))
    assert evidence["`vq-uniform-codes-are-junk`"] == f"vqvae uniform fd_ratio {interval(uniform)}"


def test_the_answer_follows_the_verdicts(made):
    params, study = made
    sentence = answer(study, params)
    assert "junk with `ae` (1500 " in sentence
    assert "no digit to rely on with `vae` (45.0 " in sentence
    assert sentence.count(". ") == 0
    assert "to 2.90 \N{MULTIPLICATION SIGN}, 6.10 \N{MULTIPLICATION SIGN} and 14.0" in sentence
    claims = [{**claim, "holds": not claim["holds"]} for claim in study.metrics["claims"]]
    turned = answer(type(study)(study.metrics | {"claims": claims}, {}, {}, {}, {}), params)
    assert "no plain junk with `ae`" in turned
    assert "a digit more often than not with `vae`" in turned


def test_pictures_have_alt_texts_and_only_those_drawn_are_shown(made, text):
    params, study = made
    shown = re.findall(r"!\[(.*?)\]\(figures/(.*?)\.png\)", text)
    assert {name for _, name in shown} == {"random_z", "codebook", "kl", "bounds", *(f"samplers_{m}" for m in MODELS)}
    assert all(len(alt) > 20 for alt, _ in shown)
    assert "figures/" not in report_md(study, params, [])


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_files_give_the_same_bytes_and_old_pictures_go(tmp_path):
    params, study = make(tmp_path, ("vqvae",), (5,))
    found = write_report(study, params, tmp_path / "first")
    assert found == "claims that hold 4 of 4, models 1, figures 11"
    (tmp_path / "second/figures").mkdir(parents=True)
    (tmp_path / "second/figures/samplers_gone.png").write_bytes(b"old")
    study = read_study(params, tmp_path / "reports", tmp_path / "artifacts")
    assert write_report(study, params, tmp_path / "second") == found
    first, second = files(tmp_path / "first"), files(tmp_path / "second")
    assert first == second
    names = re.findall(r"\((figures/.*?\.png)\)", first["report.md"].decode())
    assert sorted(names) == sorted(set(first) - {"report.md", "metrics.json"})
    for content in (first["report.md"], first["metrics.json"]):
        assert str(tmp_path).encode() not in content


def test_one_seed_and_one_model_have_no_intervals_and_leave_claims_open(tmp_path):
    params, study = make(tmp_path, ("ae",), (5,), experiments=())
    text = report_md(study, params, ["random_z"])
    assert "One seed: there are no intervals" in text
    assert "(means of one seed, no interval)" in text
    assert "±" not in text
    assert "nan" not in text.lower()
    assert text.count("| not asked |") == len(QUESTIONS) - 2
    assert "## Codebook" not in text
    assert "## KL" not in text
    assert "## Experiments" not in text
    assert study.metrics["experiments"] == {}


def section(text, heading):
    "What stands below a heading, up to the next one of its level or above."
    level = heading.split()[0]
    return re.split(rf"^#{{2,{len(level)}}} ", text.partition(f"{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_the_yardstick_is_shown_with_the_smallest_strength_that_each_metric_catches(made, text):
    _, study = made
    trust = section(text, "### Can the yardstick be trusted?")
    ((header, rows),) = tables(trust)
    smallest = caught(study.metrics["study"])
    assert [heading.partition(" ")[0] for heading in header[1:]] == ["noise", "shuffled", "blur", "dropped", "copied"]
    assert {row[0] for row in rows[1:]} == set(smallest)
    for metric, *cells in rows[1:]:
        families = ("noise", "shuffle", "blur", "dropped_classes", "copied")
        expected = [smallest[metric][family] for family in families]
        assert [None if cell == "\N{EN DASH}" else float(cell) for cell in cells] == expected
    assert rows[0][1:] == [f"{steps[0]:g}\N{EN DASH}{steps[-1]:g}" for steps in map(STRENGTHS.get, families)]
    assert {cells[-1] for metric, *cells in rows[1:] if metric != "authenticity"} == {"\N{EN DASH}"}
    assert "Every curve goes one way" in trust
    assert "not to be read alone: authenticity on noise, shuffled pixels and blur." in trust


def test_a_metric_that_turns_back_is_named(made):
    params, study = made
    tree = json.loads(json.dumps(study.metrics))
    tree["study"]["families"]["noise"][1]["kid"] = 99.0
    turned = report_md(type(study)(tree, {}, {}, {}, study.sizes), params, [])
    assert "Not every curve goes one way: kid on noise." in turned


def test_rates_stand_beside_what_a_gaussian_source_and_pca_need(made, text):
    _, study = made
    ((header, rows),) = tables(section(text, "## Rate and distortion"))
    found = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
    kl = study.models["vae"]["kl"]["kl_nats"]
    bits = Estimate(*(kl[key] / math.log(2) for key in ("mean", "low", "high")), ())
    assert found["`vae`: KL"]["bits"] == interval(bits)
    assert found["`vae`: KL"]["numbers"] == "16"
    before, after = 28.7, 54.7
    share = (bits.mean - before) / (after - before)
    low, high = (GAUSSIAN_RATE["mse"][GAUSSIAN_RATE["bits"].index(at)] for at in (before, after))
    assert found["`vae`: KL"]["Gaussian source, mse"] == number((1 - share) * low + share * high)
    assert found["`ae`"]["bits"] == "no finite rate"
    assert found["`vqvae`: learnt prior"]["bits"].startswith("81.6 ")
    assert found["`vqvae`: uniform codes"]["bits"] == "128"
    assert found["`vqvae`: learnt prior"]["numbers"] == str(4 * 4 * 8)
    for d, mse in PCA.items():
        assert found[f"PCA, d = {d}"] == {
            "bits": "\N{EN DASH}", "numbers": d, "mse": number(mse), "Gaussian source, mse": "\N{EN DASH}"
        }  # fmt: skip


def test_a_rate_beyond_the_curve_has_no_gaussian_source_beside_it(made):
    params, study = made
    tree = json.loads(json.dumps(study.metrics))
    tree["models"]["vqvae"]["codebook"]["nominal_bits_per_image"]["mean"] = GAUSSIAN_RATE["bits"][-1] + 1
    part = section(report_md(type(study)(tree, {}, {}, {}, study.sizes), params, []), "## Rate and distortion")
    ((_, rows),) = tables(part)
    last = {row[0]: row[-1] for row in rows}
    assert last["`vqvae`: uniform codes"] == "\N{EN DASH}"
    assert last["`vqvae`: learnt prior"] != "\N{EN DASH}"


def test_each_experiment_has_its_question_its_line_and_its_table(text):
    for name in EXPERIMENTS:
        tree = experiment(name, (0, 1, 2))
        part = section(text, f"### {name}")
        assert tree["question"] in part
        assert f"```sh\n{tree['command']}\n```" in part
        assert len(list(tables(part))) == 1
    ((header, rows),) = tables(section(text, "### codebook"))
    assert [row[0] for row in rows] == [f"`{name}`" for name in EXPERIMENTS["codebook"]]
    assert {"usage", "perplexity", "mse", "fd_reconstruction", "FD ratio"} <= set(header)
    ((header, rows),) = tables(section(text, "### binarised"))
    assert header[1:] == ["k = 1", "k = 10", "k = 100", "k = 1000"]
    assert rows[-1][-1] == "\N{MINUS SIGN}84.45"
    ((header, rows),) = tables(section(text, "### vae-without-kl"))
    of = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
    assert of["`vae`, this experiment"]["posterior_deviation"].startswith("0.00400")
    assert of["`vae`, this experiment"]["FD ratio"].startswith("1200")
    assert of["`vae`, shipped"]["FD ratio"].startswith("45.0")
    assert of["`ae`, shipped"]["kl_nats"] == "\N{EN DASH}"
    assert of["`ae`, shipped"]["FD ratio"].startswith("1500")


def test_a_second_judge_stands_beside_the_first_and_their_orders_are_compared(text):
    part = section(text, "### second-judge")
    ((header, rows),) = tables(part)
    assert header[1:] == ["FD ratio", "digits", "FD ratio, second judge", "digits, second judge"]
    assert [row[0] for row in rows] == [
        "`ae` standard_normal", "`ae` gmm",  # by the second judge; the first has the flow before it
        "`vae` standard_normal", "`vae` gmm", "`vqvae` uniform", "`vqvae` autoregressive",
    ]  # fmt: skip
    assert [row[1].split()[0] for row in rows[:2]] == ["1500", "3.40"]
    assert all(row[1:3] == row[3:] for row in rows)
    samplers = sum(len(of) for of in SAMPLERS.values())
    pairs = samplers * (samplers - 1) // 2
    # With 3.6 the autoencoder's flow falls behind its own mixture alone.
    assert f"Both put {pairs - 1} of the {pairs} pairs of these models' {samplers} samplers into the same order" in part


def test_a_second_judge_of_models_that_are_not_shipped_stands_alone(tmp_path):
    params = make_params(("ae",), (0,))
    write_results(tmp_path, params, experiments=("second-judge",))
    study = read_study(params, tmp_path / "reports", tmp_path / "artifacts")
    ((_, rows),) = tables(section(report_md(study, params, []), "### second-judge"))
    assert {row[1] for row in rows[2:]} == {"\N{EN DASH}"}
    assert "\N{EN DASH}" not in {cell for row in rows for cell in row[3:]}


def test_a_second_judge_of_other_models_alone_has_nothing_to_agree_with(tmp_path):
    params = make_params(("ae",), (0,))
    write_results(tmp_path, params, experiments=())
    tree = experiment("second-judge")
    tree["models"] = {"another": tree["models"]["vae"]}
    write_json(tmp_path / "reports/experiments/second-judge.json", tree)
    study = read_study(params, tmp_path / "reports", tmp_path / "artifacts")
    part = section(report_md(study, params, []), "### second-judge")
    assert "Each judge has a floor of its own." in part
    assert "same order" not in part


def test_an_experiment_of_another_name_is_shown_beside_the_shipped_model(tmp_path):
    params = make_params(("ae", "vae"), (0,))
    write_results(tmp_path, params, experiments=())
    write_json(tmp_path / "reports/experiments/longer.json", experiment("binarised") | {"name": "longer"})
    study = read_study(params, tmp_path / "reports", tmp_path / "artifacts")
    ((header, rows),) = tables(section(report_md(study, params, []), "### longer"))
    assert [row[0] for row in rows] == ["`vae`", "`vae`, shipped"]
    assert header[-3:] == ["best fitted prior", "FD ratio", "digits"]


@pytest.mark.parametrize(("file", "key"), [("yardstick", "pca"), ("experiments/codebook", "question")])
def test_a_key_that_is_missing_is_named_with_its_file(tmp_path, file, key):
    params, _ = make(tmp_path, ("ae",), (0,))
    path = tmp_path / f"reports/{file}.json"
    write_json(path, {name: value for name, value in json.loads(path.read_text()).items() if name != key})
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: there is no '{key}'"):
        read_study(params, tmp_path / "reports", tmp_path / "artifacts")


@pytest.mark.parametrize(
    "file",
    ["reports/yardstick.json", "reports/study.json", "reports/ae/metrics.json", "reports/ae/history.csv",
     "artifacts/controls.safetensors", "artifacts/ae/pictures/seed-0.safetensors"],
)  # fmt: skip
def test_a_missing_or_broken_file_is_named(tmp_path, file):
    params, _ = make(tmp_path, ("ae",), (0,))
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(ValueError, match=re.escape(file)):
        read_study(params, tmp_path / "reports", tmp_path / "artifacts")
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(file)):
        read_study(params, tmp_path / "reports", tmp_path / "artifacts")
