def test_profile_says_where_time_goes_and_what_reuse_spares(call):
    ran = call("profile", "digits", "--nfe", 2, "-n", 2, "--condition", "3,4")
    assert ran.code == 0
    words = ("2 items at once, 2 evaluations", "convolution", "stopwatch included", "attention: 49 over 49", "step by step")
    for word in (*words, "deepcache(branch=0)"):
        assert word in ran.out
    told = call("profile", "digits", "--nfe", 2, "--guidance", 2, "--condition", 3, "--json").json
    assert [step["macs"] > 0 for step in told["steps"]] == [True, True]
    spent = sum(one["seconds"] for one in told["operators"].values()) + told["between"]
    assert abs(spent - told["seconds"]) < 1e-9
    assert told["unmeasured"] > 0
    assert {"queries": 49, "keys": 49, "calls": 8} in told["attention"]
    assert any(one["policy"] == "deepcache(branch=0)" and 0 < one["macs"] < 0.3 for one in told["savings"])


def test_a_model_without_places_is_profiled_all_the_same(call):
    told = call("profile", "toys:points", "--nfe", 2, "--json").json
    assert told["savings"] == []
    assert len(told["steps"]) == 2
