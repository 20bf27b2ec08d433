"""Personal data in texts: addresses, telephone numbers, card numbers."""

import re

_CANDIDATE = re.compile(r"[\d@]")  # without one of these a text holds none of it
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")
_STREET = re.compile(
    r"\b\d{1,5} (?:[A-Z][a-z]+ ){1,3}"
    r"(?:Street|St|Road|Rd|Avenue|Ave|Lane|Drive|Boulevard|Blvd|Square|Court)\b"
)
_DIGITS = re.compile(r"(?<![\d.])[+(]?\d[\d ()./-]{6,}\d")
# A prefix, or groups of three, three and four digits.
_TELEPHONE = re.compile(r"[+(0].*|1?[-. ]?\d{3}[-. ]\d{3}[-. ]\d{4}")
# A decimal, an address of a computer, a date.
_NO_TELEPHONE = re.compile(
    r"\d+\.\d+|\d{1,3}(?:\.\d{1,3}){3}|"
    r"(?:\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4})(?!\d).*"
)


def personal(text: str) -> list[tuple[str, str]]:
    """[(kind, what)] of everything in a text that looks like an e-mail address, a street address, a
    telephone number (8 to 15 digits that begin with +, 0 or a bracket, or stand in groups of three,
    three and four) or the number of a payment card (13 to 19 digits whose check digit is right)."""
    if not _CANDIDATE.search(text):
        return []
    found = [("e-mail address", m.group()) for m in _EMAIL.finditer(text)]
    found += [("street address", m.group()) for m in _STREET.finditer(text)]
    for m in _DIGITS.finditer(text):
        number = m.group()
        digits = [int(c) for c in number if c.isdigit()]
        if 13 <= len(digits) <= 19 and _has_check_digit(digits):
            found.append(("card number", number))
        elif (
            8 <= len(digits) <= 15
            and _TELEPHONE.fullmatch(number)
            and not _NO_TELEPHONE.fullmatch(number)
        ):
            found.append(("telephone number", number))
    return found


def _has_check_digit(digits: list[int]) -> bool:
    """True if the last digit is the check digit of the others (ISO/IEC 7812)."""
    doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0
