"""One job at a time, stopped by its page, by another page, or by the page's end; and nothing stays behind."""

import gc
import threading
import time

from retrograde.studio.work import Drawn


def of(events, kind):
    return [e for e in events if e["event"] == kind]


TUNE = {"do": "tune", "batch": {"model": "digits8-flow"}, "effort": "seconds"}
RUN = {"do": "run", "reference": False, "batch": {"model": "digits8-flow", "n": 2}, "samplers": [{"nfe": 2}]}


def test_a_fit_reports_progress_and_its_plan_is_on_the_shelf(connect, client):
    with connect() as talk:
        talk.send(do="tune", batch={"model": "digits8-flow"}, nfe=2, effort="small")
        events = talk.until_ended()
        (fitted,) = of(events, "fitted")
        stages = [e["stage"] for e in of(events, "progress")]
        assert "reference trajectories" in stages
        assert fitted["report"]["best_recipe"]["recipe"] == "ddim"
        assert 0 < fitted["report"]["error"] < 1
        listed = client.get("/api/plans").json()
        assert [(plan["key"], plan["nfe"]) for plan in listed] == [(fitted["key"], 2)]
        events = talk.run({"plan": fitted["key"]})
        (told,) = of(events, "plan")
        assert told["plan"]["levels"] is None  # its coefficients belong to its levels
        assert told["plan"]["report"]["error"] == fitted["report"]["error"]
        assert of(events, "judged")


def test_a_second_job_is_told_that_the_first_is_running_and_may_stop_it(connect):
    with connect() as fits, connect() as waits:
        fits.send(**TUNE)
        number = fits.next("begun")["job"]
        waits.send(**RUN)
        busy = waits.next()
        assert (busy["event"], busy["job"]) == ("busy", number)
        assert "one job at a time" in busy["allowed"]
        assert busy["mend"]
        waits.send(do="cancel", job=number)
        assert fits.until_ended()[-1]["cancelled"]
        waits.send(**RUN)
        assert of(waits.until_ended(), "sampled")


def test_a_stopped_fit_ends_soon(connect):
    with connect() as talk:
        talk.send(**TUNE)
        talk.next("progress")
        began = time.monotonic()
        talk.send(do="cancel", job=1)
        events = talk.until_ended()
        assert events[-1]["cancelled"]
        assert not of(events, "fitted")
        assert time.monotonic() - began < 10


def test_a_run_replaces_the_one_it_names(connect):
    with connect() as talk:
        long = RUN | {"samplers": [{"nfe": 300}]}
        talk.send(**long)
        number = talk.next("begun")["job"]
        talk.next("row")
        talk.send(**RUN, replaces=number)
        first = talk.until_ended()[-1]
        assert (first["job"], first["cancelled"]) == (number, True)
        second = talk.until_ended()
        assert second[-1] == {"event": "ended", "job": number + 1, "cancelled": False}
        assert len(of(second, "row")) == 2


def test_a_page_that_leaves_takes_its_job_and_its_samples_along(connect):
    with connect() as talk:
        talk.run({"nfe": 2}, reference=False)
    threads = threading.active_count()
    for _ in range(2):
        with connect() as talk:
            talk.run({"nfe": 2}, {"recipe": "ddim", "nfe": 2}, reference=False)
            talk.send(**TUNE)
            talk.next("progress")
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Drawn)]
    assert threading.active_count() <= threads
    with connect() as talk:  # the desk is free
        talk.send(**RUN)
        assert talk.next()["event"] == "begun"


def test_a_job_that_breaks_is_told_and_frees_the_desk(connect, monkeypatch):
    from retrograde.studio import strip

    def broken(*_):
        raise RuntimeError("no more ink")

    with connect() as talk:
        with monkeypatch.context() as patch:
            patch.setattr(strip, "mean", broken)
            talk.send(**RUN)
            events = talk.until_ended()
            assert "RuntimeError: no more ink" in of(events, "failed")[0]["given"]
        talk.send(**RUN)
        assert of(talk.until_ended(), "sampled")
