import json
import re

import pytest
from fabricated import make_params, write_results

from randomz.claims import Estimate, lookup
from randomz.figures import interval, number
from randomz.report import answer, in_order, metrics_json, read_study, report_md, write_report

MODELS = ("ae", "vae", "vqvae", "vae-beta4")


def make(folder, *args):
    params = make_params(*args)
    write_results(folder, params)
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
    assert list(study.metrics) == ["judge", "floor", "controls", "models", "claims"]
    assert tuple(study.models) == MODELS
    yardstick = json.loads((folder / "reports/yardstick.json").read_text())
    assert {key: study.metrics[key] for key in yardstick} == yardstick
    for name in MODELS:
        assert study.models[name] == json.loads((folder / f"reports/{name}/metrics.json").read_text())
    assert len(study.metrics["claims"]) == 8


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
    assert best["`ae`"] == best["`vae`"] == best["`vae-beta4`"] == "gmm"
    assert best["`vqvae`"] == "autoregressive"


def test_each_claim_has_its_verdict_and_evidence(made, text):
    _, study = made
    _, rows = list(tables(text))[1]
    verdict = {row[0]: row[2] for row in rows}
    evidence = {row[0]: row[3] for row in rows}
    assert len(rows) == 8
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
    claims = [{**claim, "holds": not claim["holds"]} for claim in study.metrics["claims"]]
    turned = answer(type(study)(study.metrics | {"claims": claims}, {}, {}, {}), params)
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
    assert found == "claims that hold 3 of 3, models 1, figures 8"
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
    params, study = make(tmp_path, ("ae",), (5,))
    text = report_md(study, params, ["random_z"])
    assert "One seed: there are no intervals" in text
    assert "(means of one seed, no interval)" in text
    assert "±" not in text
    assert "nan" not in text.lower()
    assert text.count("| not asked |") == 6
    assert "## Codebook" not in text
    assert "## KL" not in text


@pytest.mark.parametrize(
    "file",
    ["reports/yardstick.json", "reports/ae/metrics.json", "reports/ae/history.csv", "artifacts/controls.safetensors",
     "artifacts/ae/pictures/seed-0.safetensors"],
)  # fmt: skip
def test_a_missing_or_broken_file_is_named(tmp_path, file):
    params, _ = make(tmp_path, ("ae",), (0,))
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(ValueError, match=re.escape(file)):
        read_study(params, tmp_path / "reports", tmp_path / "artifacts")
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(file)):
        read_study(params, tmp_path / "reports", tmp_path / "artifacts")
