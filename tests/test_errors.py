import pickle

import pytest

from retrograde import errors


def test_three_parts_are_in_the_message():
    error = errors.PlanError("row 3 is noisier than row 2", "noise levels that fall", "sort the grid downwards")
    for part in (error.given, error.allowed, error.mend):
        assert part in str(error)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.PlanError, ValueError),
        (errors.ShapeError, ValueError),
        (errors.BadValue, ValueError),
        (errors.UnknownName, ValueError),
        (errors.BadType, TypeError),
        (errors.MissingExtra, ImportError),
    ],
)
def test_each_error_is_also_the_builtin_that_others_catch(kind, builtin):
    assert issubclass(kind, builtin)
    assert issubclass(kind, errors.RetrogradeError)


def test_unknown_name_offers_the_nearest():
    error = errors.UnknownName("recipe", "dpmpp2m", ["ddim", "dpmpp_2m", "heun"])
    assert "did you mean 'dpmpp_2m'" in str(error)
    assert "ddim, dpmpp_2m, heun" in str(error)


def test_unknown_name_with_nothing_near_still_says_what_exists():
    error = errors.UnknownName("recipe", "zzz", ["ddim", "heun"])
    assert "did you mean" not in str(error)
    assert "ddim, heun" in str(error)


def test_a_long_list_is_not_printed_in_full():
    names = [f"recipe_{i}" for i in range(500)]
    error = errors.UnknownName("recipe", "recipe_77x", names)
    assert "recipe_77" in error.allowed
    assert "recipe_400" not in error.allowed
    assert len(error.allowed) < 200
    far = errors.UnknownName("recipe", "zzz", names, "rg.recipes.names()")
    assert far.allowed.startswith("recipe_0, recipe_1, ")
    assert far.allowed.endswith("and 492 more")
    assert far.mend == "choose one recipe of rg.recipes.names()"


@pytest.mark.parametrize(
    "error",
    [
        errors.PlanError("a", "b", "c"),
        errors.UnknownName("grid", "kerras", ["karras"]),
        errors.MissingExtra("diffusers", "diffusers"),
    ],
)
def test_errors_survive_the_way_home_from_a_worker_process(error):
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.mend == error.mend
