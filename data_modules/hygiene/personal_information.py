"""Finds personal information in a text: e-mail, phone, card and account numbers, home addresses (Appendix A).

Phone numbers are found by `phonenumbers`, card and account numbers are checked by `python-stdnum`; e-mail and street
addresses by patterns of our own. Both libraries work offline.

False negatives: anything spelled out ("anna at mail dot de", "five five five"), phone numbers without area code, phone
numbers in national notation outside REGIONS, street addresses with neither a postcode nor words such as "I live at"
before them, addresses in other than western European notation, account numbers that are not IBANs and have no word
such as "sort code" beside them, and every kind not listed above: names, birthdays, user names, identity cards, social
security numbers, IP addresses, number plates. False positives: postal addresses of companies (with a postcode they look
like home addresses), and numbers that happen to be valid, such as about one in ten 16-digit numbers that start like a
card number. Recall and precision of each kind: tests/data_modules/hygiene/test_personal_information.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal, get_args

Kind = Literal["email", "phone", "card", "account", "address"]
KINDS: tuple[Kind, ...] = get_args(Kind)

REGIONS = ("US", "GB", "DE", "FR", "IT", "ES", "AU", "IN")
"""Countries whose phone numbers are recognised without their country code."""

_EMAIL = re.compile(
    r"(?<![\w.+-])([^\W_][\w.+'-]{0,63})@((?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,5}[^\W\d_]{2,24})(?![\w@])"
)
_ROLES = re.compile(
    r"abuse|admin|contact|git|hello|help|hg|info|mail|mailer-daemon|news|no-?reply|office|postmaster|press|root|sales"
    r"|service|support|team|webmaster"
)
"""Names before the @ that do not belong to a person."""
_RESERVED = re.compile(r"(^|\.)(example\.(com|net|org)|example|invalid|localhost|local|test)$")

_NUMBER = re.compile(r"(?<![\w.,/-])[+(]?\d(?:[ ().\-/]{0,3}\d)*")
_DIGITS_OF_PHONE = range(7, 25)
"""Digits of a possible phone number: more than that is a table of numbers."""
_INTERNATIONAL = re.compile(r"\+\d")
_GROUPED = re.compile(r"\(\d{3}\) ?\d{3}-\d{4}|\d{3}([.-])\d{3}\1\d{4}|0\d{2,4} \d{3,4} \d{3,4}")
"""Notations that are hardly used for anything but phone numbers."""
_PHONE_WORD = re.compile(
    r"(?i)\b(?:call|cell|contact|fax|hotline|landline|mobile?|number|phone|reach|ring|sms|tel|text|whatsapp"
    r"|anrufen|handy|telefono?|téléphone)\w{0,3}\b|📞|☎"
)
_OTHER_NUMBER = re.compile(
    r"(?i)\b(?:aba|acc(?:oun)?t|barcode|bond|ean|id|invoice|isbn|issn|kontonummer|model|no\.|order|part|population"
    r"|price|routing|serial|sold|ticket|timestamp|tracking|upc)\b[^.?!\n]{0,24}$"
)

_CARD = re.compile(r"(?<![\d.,-])\d(?:[ .-]?\d){12,18}(?![\d]|[.,-]\d)")
_ISSUER = re.compile(r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[689])|35|6(?:011|4[4-9]|5)")
_CARD_LENGTHS = {13, 14, 15, 16, 19}

_IBAN = re.compile(r"(?i)(?<![a-z0-9])[a-z]{2}\d{2}(?:[ -]?[a-z0-9]){11,30}")
_ACCOUNT = re.compile(
    r"(?i)\bsort[ -]code\b.{0,20}?\b\d{2}-?\d{2}-?\d{2}\b"
    r"|\b(?:kontonummer|konto-?nr\.?)\W{0,3}\d{5,10}\b"
    r"|\b(?:account|acc?t)\b(?: (?:number|no|nr|num)\b)?\W{0,5}(?:is )?\d{6,12}\b"
    r"(?=.{0,60}\b(?:aba|routing|sort code|bank)\b)"
)
_ROUTING = re.compile(r"(?i)\b(?:aba|routing)\b(?: (?:number|no\.?|nr))?\W{0,3}(\d{9})\b")

_CAPITAL = r"[A-ZÀ-ÖØ-Þ]"
_NAME = rf"{_CAPITAL}[^\W\d_]*(?:['\u2019.-][^\W\d_]+)*\.?"
_STREET = (
    r"(?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Court|Ct|Close|Crescent|Cres|Boulevard|Blvd|Terrace|Place|Pl|Way"
    r"|Grove|Rise|Row|Park|Square|Sq|Gardens|Circle|Hill|Walk|Mews|Parade|Parkway|Pkwy|Trail|Bend|Alley|Quay|Yard)\b\.?"
)
_HOUSE = rf"\b\d{{1,5}}(?:/\d{{1,3}})?[A-Za-z]?,? (?:[NSEW]\.? |\d{{1,3}}(?:st|nd|rd|th) )?(?:{_NAME} ){{0,3}}{_STREET}"
_NUMBERED = rf"\b\d{{1,5}} (?:[NSEW]\.? )?\d{{1,3}}(?:st|nd|rd|th) {_STREET}"
_UK_CODE = r"\b[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}\b"
_US_CODE = rf"(?:\b[A-Z]{{2}},?|\b{_NAME}) \d{{5}}(?:-\d{{4}})?\b"
_AU_CODE = r"\b(?:ACT|NSW|NT|QLD|SA|TAS|VIC|WA) \d{4}\b"
_POSTAL = re.compile(rf"(?:{_HOUSE}|{_NUMBERED}|\bP\.?O\.? Box \d+)[^?!]{{0,50}}?(?:{_UK_CODE}|{_US_CODE}|{_AU_CODE})")
_ABROAD_CODE = rf"\b(?:[A-Z]{{1,2}}-)?\d{{3,5}}(?: ?\d{{2}})?(?: [A-Z]{{2}})? {_CAPITAL}[^\W\d_]+"
_ABROAD = re.compile(
    rf"\b{_NAME}(?: [^\W\d_]+){{0,3}} \d{{1,4}} ?[a-z]?,(?: [^,\n]{{1,20}},)? {_ABROAD_CODE}"
    r"|\b\d{1,4}(?: bis| ter)?,? (?i:rue|avenue|boulevard|place|chemin|impasse|allée|quai) [^,\n]{2,40}, "
    rf"{_ABROAD_CODE}"
)
_LIVING = re.compile(
    r"(?i)\b(?:(?:i|we|he|she|they|who) (?:now |still )?(?:lives?|lived|stay|stays)|reside[sd]?|resident|moved|house is"
    r"|(?:my|our|his|her|their) (?:new |old )?(?:home|house|flat|apartment|address|landlord"
    r"|neighbou?r|ex)|home:|address:|deliver(?:ed)? to|ship (?:it )?to|send (?:it|this|the [a-z]+ [a-z]+) to"
    r"|m(?:rs?|s|iss)\.? [A-Z]\w+)\b"
)
_HOME = re.compile(rf"{_HOUSE}|{_NUMBERED}|\b\d{{1,5}} {_NAME} {_NAME}(?= )")
_KNOWN_PLACES = re.compile(
    r"(?i)\b(?:10 downing st|1600 pennsylvania ave|221 ?b,? baker st|12 grimmauld|4 privet dr|84 charing cross"
    r"|350 fifth ave|1600 amphitheatre|1 infinite loop|1 apple park|1 microsoft way|42 wallaby way|742 evergreen)"
)


def find_personal_information(text: str) -> dict[Kind, str]:
    """Returns the first match of each kind in a text.

    Args:
        text: of any length; the time is linear in it.

    Returns:
        Kind -> matched text, only for kinds that were found.
    """
    first = {kind: next(finder(text), None) for kind, finder in _FINDERS.items()}
    return {kind: match for kind, match in first.items() if match is not None}


def _emails(text: str) -> Iterator[str]:
    if "@" not in text:
        return
    for match in _EMAIL.finditer(text):
        name, domain = match[1].lower(), match[2].lower()
        if not _ROLES.fullmatch(name) and not _RESERVED.search(domain) and not text.startswith(":", match.end()):
            yield match[0]


def _phones(text: str) -> Iterator[str]:
    for match in _NUMBER.finditer(text):
        if sum(map(str.isdigit, match[0])) not in _DIGITS_OF_PHONE:
            continue
        start, end = match.span()
        before, after = text[max(0, start - 60) : start], text[end : end + 30]
        # The characters on either side tell the library where the number ends.
        near = before[-2:] + re.sub("^00(?=[1-9])", "+", match[0]) + after[:2]
        if (found := _international_in(near)) is not None:
            yield found
        elif not _OTHER_NUMBER.search(before):
            spoken_of = _PHONE_WORD.search(before + after) is not None
            if spoken_of or _GROUPED.search(match[0]):
                yield from (number for number in _national_in(near) if spoken_of or _GROUPED.fullmatch(number))


def _international_in(text: str) -> str | None:
    from phonenumbers import Leniency, PhoneNumberMatcher  # slow to import, and few texts have that many digits

    found = [match.raw_string for match in PhoneNumberMatcher(text, None, Leniency.POSSIBLE)] if "+" in text else []
    return next((number for number in found if _INTERNATIONAL.match(number)), None)


def _national_in(text: str) -> Iterator[str]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    for region in REGIONS:
        yield from (match.raw_string for match in PhoneNumberMatcher(text, region, Leniency.VALID))


def _cards(text: str) -> Iterator[str]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if len(digits) in _CARD_LENGTHS and _ISSUER.match(digits) and _passes_luhn(digits):
            yield match[0]


def _passes_luhn(digits: str) -> bool:
    from stdnum import luhn

    return len(set(digits)) > 1 and bool(luhn.is_valid(digits))


def _accounts(text: str) -> Iterator[str]:
    for match in _IBAN.finditer(text):
        if (number := _iban_in(match[0])) is not None:
            yield number
    for match in _ROUTING.finditer(text):
        from stdnum.us import rtn

        if rtn.is_valid(match[1]):
            yield match[0]
    yield from (match[0] for match in _ACCOUNT.finditer(text))


def _iban_in(text: str) -> str | None:
    """The IBAN at the start of a text; the text after it may look like part of it."""
    from stdnum import iban

    number = re.sub(r"[ -]", "", text).upper()
    return next((number[:end] for end in range(15, len(number) + 1) if iban.is_valid(number[:end])), None)


def _addresses(text: str) -> Iterator[str]:
    for pattern in (_POSTAL, _ABROAD):
        for match in pattern.finditer(text):
            if not _KNOWN_PLACES.match(match[0]):
                yield match[0]
    for cue in _LIVING.finditer(text):
        home = _HOME.search(text, cue.end(), cue.end() + 80)
        if home is not None and not _KNOWN_PLACES.match(home[0]):
            yield home[0]


_FINDERS: dict[Kind, Callable[[str], Iterator[str]]] = {
    "email": _emails,
    "phone": _phones,
    "card": _cards,
    "account": _accounts,
    "address": _addresses,
}
