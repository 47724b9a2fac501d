"""Read JSON that strangers wrote: strictly, and with bounds on everything that a reader spends on it."""

import json
import math
from typing import Any, Dict, List, Set, Tuple

LARGEST_BYTES = 16 << 20  # a manifest with the 21,841 class names of ImageNet has 1 MB
LONGEST_NUMBER = 40  # characters: 64-bit integers have 20, doubles written in full 24


def parse_json(content: bytes) -> Any:
    """The document.

    Raises:
        ValueError: it is no JSON (RFC 8259), or holds a key twice, NaN, an infinite number, one of more than
            `LONGEST_NUMBER` characters, half of a surrogate pair, or lists in lists beyond what Python reads.
    """
    if len(content) > LARGEST_BYTES:
        raise ValueError("it has more than %d MiB" % (LARGEST_BYTES >> 20))
    try:
        document = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=unique_keys,
            parse_constant=refuse_constant,
            parse_float=finite,
            parse_int=whole,
        )
        json.dumps(document, ensure_ascii=False).encode("utf-8")  # half a surrogate pair cannot be written
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no character")
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 (byte %d)" % error.start)
    except RecursionError:
        raise ValueError("it is nested too deeply")
    return document


def unique_keys(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: Set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError("it has the key %s twice" % shown(key))
            seen.add(key)
    return found


def refuse_constant(name: str) -> float:
    raise ValueError("%s is not a number in JSON" % name)


def finite(text: str) -> float:
    value = float(text) if len(text) <= LONGEST_NUMBER else math.inf
    if math.isinf(value):
        raise ValueError("the number %s is too large or too long" % shown(text))
    return value


def whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError("the number %s is too long" % shown(text))
    return int(text)


def shown(value: object, most: int = 60) -> str:
    """A value in a sentence: escaped, on one line, cut where it is long."""
    text = ascii(value)
    return text if len(text) <= most else text[: most - 3] + "..."
