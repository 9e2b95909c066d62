import retrograde as rg


def test_recipes_and_grids_list_the_registries(call):
    assert [entry["name"] for entry in call("recipes", "--json").json] == list(rg.recipes.names())
    assert [entry["name"] for entry in call("grids", "--json").json] == list(rg.grids.names())
    text = call("recipes").out
    assert all(name in text for name in rg.recipes.names())
    assert "eta=" in text


def test_models_list_what_they_are(call):
    found = {entry["name"]: entry for entry in call("models", "--json").json}
    assert tuple(found) == rg.models()
    assert found["digits"]["shape"] == [1, 28, 28]
    assert "1x28x28" in call("models").out


def test_systems_count_what_is_covered(call):
    found = call("systems", "--json").json
    assert found["coverage"]["registered"] == rg.systems.coverage().done
    assert len(found["systems"]) == len(rg.systems.all())
    only = call("systems", "--home", "solvers", "--json").json["systems"]
    assert {entry["home"] for entry in only} == {"solvers"}
    assert call("systems", "--home", "solver").code == 2


def test_cite_prints_bibtex(call):
    assert call("cite", "ddim").out.strip() == rg.cite("ddim")
    assert call("cite", "ddim", "--json").json["bibtex"] == rg.cite("ddim")
    unknown = call("cite", "dimm")
    assert unknown.code == 2
    assert "'ddim'" in unknown.err
