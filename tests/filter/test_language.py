from __future__ import annotations

import socket
from typing import Any

import pytest

from components.core.records import record_table
from components.filter.characters import class_counts
from components.filter.language import refused, row_languages
from components.filter.texts import ShardTexts


def languages(*pairs: tuple[str, str], given: str | None = None, wanted: tuple[str, ...] = ("en",)) -> list[str]:
    rows = [{"task": "cosent", "text": left, "text_pair": right, "label": 1.0} for left, right in pairs]
    texts = ShardTexts.of(record_table(rows))
    return row_languages(texts, class_counts(texts.texts), [given] * len(rows), wanted, 0.7)


def test_scripts_decide_by_themselves() -> None:
    assert languages(("怎么还款", "还款方式"), ("iPhone 怎么截屏", "花呗 iphone")) == ["zh", "zh"]
    assert languages(
        ("カタカナとひらがな", "日本語の文"),
        ("求铃木みら乃作品合集", "铃木みら乃的作品"),
        ("日本経済新聞", "国内外の経済、政治、社会の記事を載せる新聞である。"),
        ("網球正拍擊球的握拍方式", "正手的握拍有大陸式、東方式、半西方式和西方式。"),
        ("한국어 문장입니다", "또 다른 문장"),
        ("대한민국 憲法 제1조", "대한민국은 民主共和國이다."),
    ) == ["ja", "zh", "ja", "zh", "ko", "ko"]
    english = "The character 中 appears in the middle of this English sentence about writing systems."
    assert languages((english, english)) == ["en"]


def test_the_detector_tells_languages_of_one_script_apart() -> None:
    pairs = [
        ("How do I read a file?", "Open it and call its read method, which gives the whole content."),
        ("Wie lese ich eine Datei?", "Man öffnet sie und ruft die Methode auf, die den ganzen Inhalt liefert."),
        ("Comment lire un fichier ?", "On l'ouvre puis on appelle la méthode qui renvoie tout le contenu."),
        ("Как прочитать файл?", "Откройте его и вызовите метод, который вернёт всё содержимое."),
    ]
    assert languages(*pairs) == ["en", "de", "fr", "ru"]


def test_too_little_to_tell_is_undetermined_and_passes() -> None:
    assert languages(("ok", "yes"), ("3.11", "42"), ("xqzt wvk brr ghq", "plk mnb vcx zzt")) == ["und"] * 3
    assert refused(["und", "en", "de"], ("en",)).tolist() == [False, False, True]
    assert refused(["und", "de"], ()).tolist() == [False, False]


def test_a_weak_guess_counts_for_a_wanted_language_only() -> None:
    code = ("csv reader", "def reader(iterable, dialect='excel', *args, **kwargs)")
    assert languages(code, wanted=("en",)) == ["en"]
    assert languages(code, wanted=("zh",)) == ["und"]


def test_a_language_that_is_given_stays() -> None:
    assert languages(("怎么还款", "还款方式"), given="zh-CN") == ["zh"]
    assert languages(("怎么还款", "还款方式"), given="EN_us") == ["en"]


def test_the_network_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert languages(("The quick brown fox", "jumps over the lazy dog")) == ["en"]
