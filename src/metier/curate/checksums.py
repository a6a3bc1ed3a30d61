"""Check digits of cards, bank accounts and national numbers: whether they hold, and the digits that make them hold.

    >>> card_is_valid("4111111111111111"), nhs_is_valid("9434765919"), nir_key("2550814168025")
    (True, True, 38)

Every function takes digits and capital letters without blanks. A number that holds need not be one that was issued.
"""

from __future__ import annotations

__all__ = [
    "IBAN_LENGTH",
    "card_is_valid",
    "dni_is_valid",
    "dni_letter",
    "iban_is_valid",
    "iban_remainder",
    "luhn_remainder",
    "nhs_check",
    "nhs_is_valid",
    "nino_is_valid",
    "nir_is_valid",
    "nir_key",
    "social_check",
    "social_is_valid",
    "ssn_is_valid",
    "tax_id_check",
    "tax_id_is_valid",
]

# Lengths from the SWIFT IBAN registry.
IBAN_LENGTH = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20,
    "LV": 21, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28,
    "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24,
    "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip
# Countries whose account part is digits only: words that follow a short number cannot pass for one.
_DIGIT_IBANS = frozenset(
    ("AE", "AT", "BE", "CZ", "DE", "DK", "EE", "ES", "FI", "HR", "HU", "IS", "LT", "NO", "PL", "PT", "SE", "SI", "SK")
)
_SOCIAL_WEIGHTS = (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1)
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_NEVER_NINO = frozenset(("BG", "GB", "KN", "NK", "NT", "TN", "ZZ"))


def card_is_valid(digits: str) -> bool:
    """Whether digits pass the Luhn check and start as an issued card number of that length does."""
    two, four, size = int(digits[:2]), int(digits[:4]), len(digits)
    issued = (
        (digits[0] == "4" and size in (13, 16, 19))
        or ((51 <= two <= 55 or 2221 <= four <= 2720) and size == 16)
        or (two in (34, 37) and size == 15)
        or (two in (30, 36, 38) and size == 14)
        or (digits.startswith("0604") and size == 12)
        or (two in (50, 56, 57, 58, 63, 67) and size in (12, 16, 18, 19))
        or (four in (1800, 2131) and size == 15)
        or ((four == 6011 or 644 <= four // 10 <= 659 or two in (35, 62)) and 16 <= size <= 19)
    )
    return issued and luhn_remainder(digits) == 0


def luhn_remainder(digits: str) -> int:
    """The Luhn sum modulo 10: 0 for a valid number."""
    total = sum(int(d) for d in digits[-1::-2])
    return (total + sum(sum(divmod(2 * int(d), 10)) for d in digits[-2::-2])) % 10


def iban_is_valid(iban: str) -> bool:
    """Whether letters and digits without blanks have an IBAN's length and leave 1 modulo 97.

    Source: ISO 13616, ISO 7064.
    """
    country, known = iban[:2], IBAN_LENGTH.get(iban[:2])
    if not (15 <= len(iban) <= 34) or (known is not None and len(iban) != known):
        return False
    if country in _DIGIT_IBANS and not iban[2:].isdigit():
        return False
    return iban_remainder(iban) == 1


def iban_remainder(iban: str) -> int:
    """The IBAN as a number, country and check digits last, modulo 97."""
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97


def nhs_check(nine: str) -> int:
    """The tenth digit of a British NHS number; 10 where these nine digits are never issued."""
    return -sum(weight * int(digit) for weight, digit in zip(range(10, 1, -1), nine, strict=True)) % 11


def nhs_is_valid(digits: str) -> bool:
    """Whether ten digits are an NHS number: weights 10 to 2, modulo 11."""
    return len(digits) == 10 and len(set(digits)) > 1 and nhs_check(digits[:9]) == int(digits[9])


def tax_id_check(ten: str) -> int:
    """The eleventh digit of a German tax id.

    Source: ISO 7064, modulo 11,10.
    """
    product = 10
    for digit in ten:
        product = ((int(digit) + product - 1) % 10 + 1) * 2 % 11
    return (11 - product) % 10


def tax_id_is_valid(digits: str) -> bool:
    """Whether eleven digits are a German tax id: one digit twice or three times among ten, and the check digit."""
    ten = digits[:10]
    if len(digits) != 11 or digits[0] == "0" or len(set(ten)) not in (8, 9):
        return False
    most = max(ten.count(digit) for digit in set(ten))
    if (len(set(ten)), most) not in ((9, 2), (8, 3)) or any(digit * 3 in ten for digit in set(ten)):
        return False
    return tax_id_check(ten) == int(digits[10])


def social_check(eleven: str) -> int:
    """The last digit of a German social insurance number: weighted digits, cross sums, modulo 10.

    Source: Algorithm::CheckDigits, M10_006; the letter counts as its place in the alphabet, two digits.
    """
    digits = f"{eleven[:8]}{ord(eleven[8]) - 64:02d}{eleven[9:11]}"
    return sum(sum(divmod(w * int(d), 10)) for w, d in zip(_SOCIAL_WEIGHTS, digits, strict=True)) % 10


def social_is_valid(number: str) -> bool:
    """Whether twelve characters are a German social insurance number: area, birthday, letter, serial, check digit."""
    if len(number) != 12 or not (number[:8] + number[9:]).isdigit() or not "A" <= number[8] <= "Z":
        return False
    day, month = int(number[2:4]), int(number[4:6])
    # A serial day or month above the calendar stands for a birthday that is not known or is taken.
    return day <= 81 and month <= 12 and social_check(number[:11]) == int(number[11])


def nir_key(thirteen: str) -> int:
    """The two-digit key of a French NIR, 1-97; 2A and 2B (Corsica) count as 19 and 18."""
    return 97 - int(thirteen.replace("2A", "19").replace("2B", "18")) % 97


def nir_is_valid(number: str) -> bool:
    """Whether fifteen characters are a French NIR: sex, year, month, department, commune, order, key."""
    if len(number) != 15 or number[0] not in "123478" or not _is_month(number[3:5]):
        return False
    digits = number[:5] + number[5:7].replace("2A", "19").replace("2B", "18") + number[7:]
    return digits.isdigit() and nir_key(digits[:13]) == int(digits[13:])


def _is_month(two: str) -> bool:
    """01-12; 20, 30-42 and 50-99 stand for a month that is not known."""
    return two.isdigit() and (1 <= int(two) <= 12 or int(two) == 20 or 30 <= int(two) <= 42 or int(two) >= 50)


def dni_letter(number: int) -> str:
    """The check letter of a Spanish DNI."""
    return _DNI_LETTERS[number % 23]


def dni_is_valid(number: str) -> bool:
    """Whether nine characters are a Spanish DNI, or an NIE (its X, Y, Z count as 0, 1, 2)."""
    if len(number) != 9 or number[0] not in "0123456789XYZ":
        return False
    digits = ("XYZ".index(number[0]) if number[0] in "XYZ" else number[0], number[1:8])
    return number[1:8].isdigit() and dni_letter(int(f"{digits[0]}{digits[1]}")) == number[8]


def ssn_is_valid(digits: str) -> bool:
    """Whether nine digits can be a US social security number; it has no check digit."""
    area = digits[:3]
    issued = area not in ("000", "666") and area < "900"
    return len(digits) == 9 and issued and digits[3:5] != "00" and digits[5:] != "0000"


def nino_is_valid(number: str) -> bool:
    """Whether nine characters can be a British national insurance number; it has no check digit."""
    first, second, digits, last = number[:1], number[1:2], number[2:8], number[8:]
    return (
        len(number) == 9
        and digits.isdigit()
        and first in set("ABCEGHJKLMNOPRSTWXYZ")
        and second in set("ABCEGHJKLMNPRSTWXYZ")
        and number[:2] not in _NEVER_NINO
        and last in set("ABCD")
    )
