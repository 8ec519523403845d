from samovar.records import Estimate, FoundModel, StoredModel
from samovar.widgets.catalogue import CatalogueState, estimate_words
from tests.fakes.fake_server import MODEL
from tests.fakes.fake_workbench import ESTIMATE, FOUND, STORED


def state() -> CatalogueState:
    catalogue = CatalogueState()
    stored = [STORED, STORED | {"model_name": "half/here", "complete": False}]
    catalogue.set_stored([StoredModel.from_json(model) for model in stored], {MODEL: True})
    return catalogue


def test_models_on_disk_come_first_and_those_of_the_hub_once() -> None:
    catalogue = state()
    catalogue.set_found([FoundModel.from_json(FOUND), FoundModel(MODEL), FoundModel("a/b", fits=True)])
    assert [choice.words() for choice in catalogue.choices()] == [
        f"{MODEL} · 269 MB · safetensors · on disk · ✓ fits",
        "org/other · 40 GB · GGUF · on the Hub · ✗ too large · needs a licence",
        "a/b · on the Hub · ✓ fits",
    ]


def test_every_word_of_the_text_must_be_in_the_name() -> None:
    catalogue = state()
    for text, matches in (("smol 135", True), ("SMOL", True), ("smol 7b", False), ("", True)):
        catalogue.text = text
        assert bool(catalogue.choices()) == matches


def test_estimates_in_words() -> None:
    words = [
        estimate_words(Estimate.from_json(ESTIMATE | fields))
        for fields in ({}, {"fits": False}, {"would_evict": ["a/b", "c/d"]})
    ]
    assert words == [
        "✓ Needs 600 MB on cpu, where 9.0 GB are free: it fits.",
        "✗ Needs 600 MB on cpu, where 9.0 GB are free: it does not fit.",
        "✓ Needs 600 MB on cpu, where 9.0 GB are free: it fits once a/b, c/d has left memory.",
    ]
