import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from synthetic import SHIPPED, tiny_params, tiny_tree

from randomz import params
from randomz.params import AEConfig, ParamsError, VAEConfig, load_params


@pytest.fixture
def file(tmp_path):
    return tmp_path / "params.yaml"


def change(key, *value):
    """`tiny_tree` with the value at a dotted key set, or without that key where no value is given."""
    tree = tiny_tree()
    *path, last = key.split(".")
    node = tree
    for part in path:
        node = node[part]
    if value:
        node[last] = value[0]
    else:
        del node[last]
    return tree


def refusal(file, content):
    """The message that a file with this content, or JSON of it, is refused with."""
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ParamsError) as caught:
        load_params(file)
    return str(caught.value)


def test_the_shipped_file_is_in_order():
    loaded = load_params(SHIPPED)
    assert {config.kind for config in loaded.models.values()} == {"ae", "vae", "vqvae"}
    assert len({config.likelihood for config in loaded.models.values()}) == 1


def test_a_file_gives_what_it_says(file):
    file.write_text(json.dumps(tiny_tree()))
    loaded = load_params(file)
    assert loaded == tiny_params()
    assert loaded.seeds == (0, 1)
    assert loaded.models["vqvae"].model_dump() == {**tiny_tree()["models"]["vqvae"], "sigma": None}


@pytest.mark.parametrize(
    ("key", "accepted"),
    [
        ("colour", "seeds, prepare, judge"),
        ("judge.colour", "epochs, batch_size"),
        ("models.ae.colour", "kind, dimensions"),
        ("models.vae.grid", "kind, dimensions, beta"),
        ("models.vqvae.colour", "kind, grid, codes, dimensions, beta, codebook, decay, start, restart"),
        ("prior.colour", "ae, vae, vqvae"),
        ("prior.vae.colour", "gmm, flow"),
        ("prior.vae.gmm.colour", "codes, components, iterations"),
        ("prior.ae.flow.colour", "transforms, width, epochs"),
        ("prior.vqvae.colour", "batch_size, learning_rate, weight_decay, dropout"),
    ],
)
def test_an_unknown_key_is_named_with_those_that_are_accepted(file, key, accepted):
    message = refusal(file, change(key, 7))
    assert message.startswith(f"{file}: {key}: unknown key (found 7); accepted: ")
    assert accepted in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "key", ["judge", "train.epochs", "models.vae.beta", "models.ae.likelihood", "prior.ae", "prior.vqvae.epochs"]
)
def test_a_missing_key_is_named(file, key):
    assert refusal(file, change(key)) == f"{file}: {key}: missing key; it has to be there"


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("train.epochs", "4", "a valid integer"),
        ("train.epochs", True, "a valid integer"),
        ("train.epochs", 4.5, "a valid integer"),
        ("train.epochs", None, "a valid integer"),
        ("train.epochs", 0, "greater than or equal to 1"),
        ("train.learning_rate", "1e-3", "a valid number"),
        ("train.learning_rate", True, "a valid number"),
        ("train.learning_rate", 0, "greater than 0"),
        ("train.warmup", 1.0, "less than 1"),
        ("train.batch_size", 10001, "less than or equal to 10000"),
        ("judge.shift", -0.1, "greater than or equal to 0"),
        ("seeds", 3, "a valid array"),
        ("models", [], "an object"),
        ("models.vae", 3, "an object"),
        ("models.ae.dimensions", "x", "a valid integer"),
        ("models.ae.likelihood", "poisson", "'bernoulli' or 'gaussian'"),
        ("models.vqvae.codebook", "mean", "'ema' or 'gradient'"),
        ("models.vqvae.restart", -1.0, "greater than or equal to 0"),
        ("prior.vqvae.dropout", 1.0, "less than 1"),
        ("prior.vae.gmm.components", 100, "a valid array"),
        ("yardstick.reference", "train", "'test' or 'validation'"),
        ("train.binarise", "yes", "a valid boolean"),
        ("publish.experiment", 5, "a valid string"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_accepted(file, key, value, accepted):
    assert refusal(file, change(key, value)) == f"{file}: {key}: found {value!r}; input should be {accepted}"


def test_binarised_training_takes_bernoulli_alone(file):
    tree = tiny_tree(train={"binarise": True}, models={"vae": {"likelihood": "gaussian", "sigma": 0.5}})
    message = refusal(file, tree)
    assert "train.binarise is true, but models.vae.likelihood is gaussian; " in message
    assert message.endswith("bernoulli is accepted")
    file.write_text(json.dumps(tiny_tree(train={"binarise": True})))
    assert load_params(file).train.binarise


@pytest.mark.parametrize(
    ("written", "key"), [(".nan", "train.warmup"), (".inf", "models.vae.beta"), (".nan", "judge.shift")]
)
def test_what_is_no_finite_number_is_refused(file, written, key):
    message = refusal(file, json.dumps(change(key, "HERE")).replace('"HERE"', written))
    assert message.startswith(f"{file}: {key}: found {written[1:]}; ")
    assert "\n" not in message


@pytest.mark.parametrize(("seeds", "start"), [([True], "seeds.0: found True"), ([0, -1], "seeds.1: found -1")])
def test_a_wrong_seed_is_named_by_its_place(file, seeds, start):
    message = refusal(file, change("seeds", seeds))
    assert message.startswith(f"{file}: {start}; input should be ")
    assert "\n" not in message


@pytest.mark.parametrize("seeds", [[], [1, 0, 1]])
def test_seeds_are_some_and_different(file, seeds):
    accepted = "a list of one seed or more without repeats is accepted"
    assert refusal(file, change("seeds", seeds)) == f"{file}: the file: seeds is {seeds}; {accepted}"


@pytest.mark.parametrize("kind", ["gan", 3])
def test_an_unknown_kind_is_named_with_those_there_are(file, kind):
    message = refusal(file, change("models.vae.kind", kind))
    assert message == f"{file}: models.vae.kind: found {kind!r}; accepted: ae, vae, vqvae"


def test_an_entry_without_kind_is_told_the_kinds_there_are(file):
    assert refusal(file, change("models.vae.kind")) == f"{file}: models.vae.kind: missing key; accepted: ae, vae, vqvae"


@pytest.mark.parametrize("name", ["AE", "a b", "vae@4", "4x", "ae_1", ""])
def test_a_model_name_has_to_fit_a_stage_and_a_path(file, name):
    message = refusal(file, tiny_tree(models={name: {"kind": "ae", "likelihood": "bernoulli", "dimensions": 2}}))
    assert message == f"{file}: models.{name}: found {name!r}; string should match pattern '^[a-z][a-z0-9-]*$'"


@pytest.mark.parametrize("sigma", [0, -1.0, "auto", True, "1"])
def test_sigma_is_a_positive_number_or_calibrated(file, sigma):
    message = refusal(file, tiny_tree(models={"ae": {"likelihood": "gaussian", "sigma": sigma}}))
    assert message.startswith(f"{file}: models.ae.sigma: found {sigma!r}; input should be ")
    assert message.endswith("or 'calibrated'")
    assert "\n" not in message


def test_a_gaussian_needs_a_sigma(file):
    message = refusal(file, tiny_tree(models={"ae": {"likelihood": "gaussian"}}))
    accepted = "with likelihood gaussian a number > 0 or calibrated is accepted"
    assert message == f"{file}: models.ae: sigma is None; {accepted}"


@pytest.mark.parametrize("sigma", [1.0, "calibrated"])
def test_a_bernoulli_has_no_sigma(file, sigma):
    message = refusal(file, change("models.ae.sigma", sigma))
    assert message == f"{file}: models.ae: sigma is {sigma}; with likelihood bernoulli no such key is accepted"


@pytest.mark.parametrize("sigma", [1, 0.5, "calibrated"])
def test_these_sigmas_are_accepted(file, sigma):
    file.write_text(json.dumps(tiny_tree(models={"ae": {"likelihood": "gaussian", "sigma": sigma}})))
    assert load_params(file).model("ae").sigma == sigma


def test_every_mistake_has_its_line(file):
    tree = tiny_tree(train={"epochs": 0}, models={"vae": {"beta": "x"}}, prior={"ae": {"colour": 1}})
    lines = refusal(file, tree).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["train.epochs", "models.vae.beta", "prior.ae.colour"]


def test_a_repeated_key_is_refused(file):
    message = refusal(file, json.dumps(tiny_tree(), indent=1)[:-2] + ',\n "seeds": [1]}')
    assert message.startswith(f"{file}: is not valid YAML: line ")
    assert 'found duplicate key "seeds"' in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("seeds: [1", "line 1: expected ',' or ']', but got '<stream end>'"),
        ("seeds:\n\t- 1", "line 2: found character '\\t' that cannot start any token"),
        ("seeds: *none", "line 1: found undefined alias 'none'"),
    ],
)
def test_broken_yaml_is_refused_with_its_line(file, content, reason):
    assert refusal(file, content) == f"{file}: is not valid YAML: {reason}"


@pytest.mark.parametrize(("content", "found"), [("", "None"), ("[1, 2]", "[1, 2]"), ("hello", "'hello'")])
def test_what_is_no_mapping_is_refused(file, content, found):
    assert refusal(file, content) == f"{file}: the file: found {found}; input should be an object"


@pytest.mark.parametrize("content", ["? [1, 2]\n: 3", "seeds: &own [*own]"])
def test_yaml_beyond_plain_keys_and_values_is_refused_in_one_line(file, content):
    message = refusal(file, content)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message


def test_a_date_is_no_number(file):
    message = refusal(file, json.dumps(change("train.epochs", "HERE")).replace('"HERE"', "2020-01-02"))
    assert message.startswith(f"{file}: train.epochs: found '2020-01-02'; input should be a valid integer")


def test_a_file_that_is_not_there_is_named(file):
    with pytest.raises(ParamsError, match=r"params.yaml: cannot be read \(No such file or directory\); a YAML file"):
        load_params(file)


def test_a_folder_and_bytes_are_refused(file):
    with pytest.raises(ParamsError, match=r"cannot be read \(Is a directory\)"):
        load_params(file.parent)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParamsError, match="is not UTF-8"):
        load_params(file)


def test_numbers_may_be_written_with_an_exponent(file):
    file.write_text(json.dumps(change("train.learning_rate", "HERE")).replace('"HERE"', "1e-3"))
    assert load_params(file).train.learning_rate == 1e-3


def test_a_fourth_model_by_a_merge_key_is_the_third_but_for_what_it_says(file):
    tree = tiny_tree()
    vae = tree["models"].pop("vae")
    models = [f"  {name}: {json.dumps(entry)}" for name, entry in tree.pop("models").items()]
    models += ["  vae: &vae", *(f"    {key}: {json.dumps(value)}" for key, value in vae.items())]
    models += ["  vae-beta4: {<<: *vae, beta: 4.5}"]
    sections = [f"{name}: {json.dumps(section)}" for name, section in tree.items()]
    file.write_text("\n".join([*sections, "models:", *models]))
    loaded = load_params(file)
    assert list(loaded.models) == ["ae", "vqvae", "vae", "vae-beta4"]
    assert loaded.models["vae-beta4"] == loaded.models["vae"].model_copy(update={"beta": 4.5})


def test_params_are_frozen():
    loaded = tiny_params()
    with pytest.raises(ValidationError, match="frozen"):
        loaded.train.epochs = 3
    with pytest.raises(ValidationError, match="frozen"):
        loaded.seeds = (4,)


def test_a_model_is_found_by_its_name():
    loaded = tiny_params(models={"other": {"kind": "vae", "likelihood": "bernoulli", "dimensions": 2, "beta": 4.0}})
    assert isinstance(loaded.model("ae"), AEConfig)
    assert isinstance(loaded.model("other"), VAEConfig)
    with pytest.raises(ParamsError, match=r"models.gan: no such entry; accepted: ae, vae, vqvae, other"):
        loaded.model("gan")


def test_the_command_says_what_is_wrong_and_exits_with_1(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(json.dumps(tiny_tree()))
    assert params.main() == 0
    Path("params.yaml").write_text(json.dumps(change("train.epochs", 0)))
    assert params.main() == 1
    assert capsys.readouterr().err == (
        "params.yaml: train.epochs: found 0; input should be greater than or equal to 1\n"
    )
