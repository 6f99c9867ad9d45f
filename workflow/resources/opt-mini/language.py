"""The mini language of opt-mini: words, what is true of them, and episodes of the ten tasks.

An *episode* is one setting of a task (which categories carry which label, which rule holds) from
which any number of items can be drawn. Training draws a new episode for every sequence, so that a
setting is known only from the solved items before; the lm-eval tasks fix one setting each.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BOS, PAD, UNKNOWN = "</s>", "<pad>", "<unk>"
SPECIAL = [UNKNOWN, PAD, BOS, "\n", "\n\n"]

CATEGORIES = {
    "animal": """cat dog cow horse sheep pig goat duck lion bear frog swan goose deer fox wolf hen
        seal kangaroo owl tiger mouse rabbit monkey""",
    "food": """bread rice cheese apple pear grape onion carrot potato tomato soup pasta butter egg
        honey sugar salt pepper bean nut cake pie lemon peach""",
    "tool": """hammer saw drill wrench axe shovel rake knife needle brush ladder chisel plier spade
        hoe file clamp screwdriver broom mop""",
    "color": """red blue green yellow black white brown pink purple orange grey gold silver violet
        crimson teal""",
    "body": """arm leg hand foot nose ear eye mouth knee elbow chin neck shoulder ankle wrist finger
        thumb toe hip chest""",
    "clothing": """shirt coat hat scarf glove sock boot shoe dress skirt belt tie jacket sweater
        vest cap robe apron""",
    "vehicle": """car bus train truck bike boat ship plane tram van taxi scooter ferry canoe jeep
        sled""",
    "furniture": """chair table bed sofa desk shelf lamp stool bench cabinet dresser couch wardrobe
        cradle mirror rug""",
}
CATEGORIES = {category: words.split() for category, words in CATEGORIES.items()}
CATEGORY_OF = {word: category for category, words in CATEGORIES.items() for word in words}

BABIES = """cat kitten|dog puppy|cow calf|horse foal|sheep lamb|pig piglet|goat kid|duck duckling|
    lion whelp|bear cub|frog tadpole|swan cygnet|goose gosling|deer fawn|fox kit|hen chick|seal pup|
    kangaroo joey|owl owlet|rabbit bunny"""
IRREGULAR_PLURALS = """goose geese|foot feet|mouse mice|knife knives|shelf shelves|wolf wolves|
    bus buses|brush brushes|bench benches|fox foxes|couch couches|ferry ferries|wrench wrenches"""
OPPOSITES = """hot cold|big small|tall short|fast slow|old young|happy sad|rich poor|hard soft|
    light dark|clean dirty|full empty|strong weak|thick thin|wide narrow|loud quiet|early late|
    high low|deep shallow|near far|good bad|true false|sharp blunt|smooth rough|brave timid|
    cheap costly|dry wet|sweet bitter|safe risky|kind cruel|calm angry|rare common|simple complex|
    alive dead|public private|modern ancient"""
VERBS = """walk walked walking|jump jumped jumping|play played playing|talk talked talking|
    go went going|eat ate eating|run ran running|sing sang singing|write wrote writing|
    take took taking|give gave giving|make made making|see saw seeing|come came coming|
    think thought thinking|buy bought buying|bring brought bringing|teach taught teaching|
    catch caught catching|sleep slept sleeping|keep kept keeping|feel felt feeling|
    leave left leaving|lose lost losing|build built building|send sent sending|
    spend spent spending|stand stood standing|find found finding|hold held holding|
    tell told telling|sell sold selling|speak spoke speaking|break broke breaking|
    drive drove driving|ride rode riding|fly flew flying|grow grew growing|know knew knowing|
    throw threw throwing|draw drew drawing|swim swam swimming|begin began beginning|
    drink drank drinking|push pushed pushing|pull pulled pulling|open opened opening|
    help helped helping|ask asked asking|wait waited waiting|cook cooked cooking|
    wash washed washing"""
COUNTRIES = """france paris|germany berlin|italy rome|spain madrid|portugal lisbon|greece athens|
    austria vienna|sweden stockholm|norway oslo|poland warsaw|ireland dublin|hungary budapest|
    japan tokyo|china beijing|india new delhi|thailand bangkok|vietnam hanoi|iran tehran|
    iraq baghdad|nepal kathmandu|egypt cairo|kenya nairobi|ghana accra|senegal dakar|libya tripoli|
    morocco rabat|uganda kampala|ethiopia addis ababa|canada ottawa|peru lima|chile santiago|
    cuba havana|brazil brasilia|ecuador quito|bolivia la paz|uruguay montevideo|mexico mexico city|
    argentina buenos aires|panama panama city|malaysia kuala lumpur|guatemala guatemala city|
    emirates abu dhabi|kuwait kuwait city|belize belmopan|haiti port au prince|
    mauritius port louis|trinidad port of spain|salvador san salvador|sudan khartoum|
    angola luanda|zambia lusaka|turkey ankara|syria damascus|jordan amman"""


def _pairs(table: str) -> list[list[str]]:
    return [row.split() for row in table.split("|")]


BABY_OF = dict(_pairs(BABIES))
PLURAL_OF = {
    word: dict(_pairs(IRREGULAR_PLURALS)).get(word, word + "s")
    for category in ("animal", "tool", "body", "vehicle", "furniture")
    for word in CATEGORIES[category]
}
OPPOSITE_OF = {a: b for x, y in _pairs(OPPOSITES) for a, b in ((x, y), (y, x))}
PAST_OF = {verb: past for verb, past, _ in _pairs(VERBS)}
GERUND_OF = {verb: gerund for verb, _, gerund in _pairs(VERBS)}
CAPITAL_OF = {country: tuple(capital) for country, *capital in _pairs(COUNTRIES)}
COUNTRY_OF = {capital[0]: c for c, capital in CAPITAL_OF.items() if len(capital) == 1}

NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
NAMES = [
    "ann",
    "bob",
    "eve",
    "tom",
    "kim",
    "joe",
    "sue",
    "max",
    "lea",
    "ian",
    "zoe",
    "ben",
    "amy",
    "leo",
    "ada",
    "sam",
]
LABELS = [
    "foo",
    "bar",
    "baz",
    "qux",
    "wug",
    "dax",
    "blick",
    "zorp",
    "fep",
    "toma",
    "kiki",
    "bouba",
    "mib",
    "tulver",
    "gazzer",
    "nonce",
    "plix",
    "vorn",
    "snark",
    "jub",
    "lorem",
    "ipsum",
    "dolor",
    "amet",
    "tove",
    "rath",
    "mome",
    "slith",
    "gimble",
    "wabe",
    "borogove",
    "grok",
]
MARKERS = ["Input:", "Output:", "Country:", "Capital:", "Sum:", "Equals:", "plus", "and", "so"]


def _vocabulary() -> list[str]:
    words = [*SPECIAL, *MARKERS, *CATEGORY_OF, *CATEGORIES, *BABY_OF.values(), *PLURAL_OF.values()]
    words += [*OPPOSITE_OF, *PAST_OF, *PAST_OF.values(), *GERUND_OF.values(), *CAPITAL_OF]
    words += [word for capital in CAPITAL_OF.values() for word in capital]
    words += [*NUMBERS, *DAYS, *MONTHS, *NAMES, *LABELS]
    return list(dict.fromkeys(words))


VOCABULARY = _vocabulary()
TOKEN = {word: i for i, word in enumerate(VOCABULARY)}
WORDS = VOCABULARY[len(SPECIAL) + len(MARKERS) :]

Words = tuple[str, ...]


@dataclass(frozen=True)
class Item:
    query: Words
    answer: Words
    distractors: tuple[Words, ...]

    def choices(self) -> list[Words]:
        return [self.answer, *self.distractors]


@dataclass(frozen=True)
class Episode:
    """`fields` name the query and the answer; without them an item is running text."""

    fields: tuple[str, str] | None
    draw: Callable[[], Item]

    def prompt(self, item: Item) -> Words:
        if self.fields is None:
            return item.query
        return (self.fields[0], *item.query, "\n", self.fields[1])


PLAIN = ("Input:", "Output:")


def _single(words: Sequence[str]) -> tuple[Words, ...]:
    return tuple((word,) for word in words)


def _others(rng: random.Random, pool: Sequence, taken: Sequence, count: int) -> list:
    """`count` members of `pool` that are not in `taken`."""
    return rng.sample([x for x in dict.fromkeys(pool) if x not in taken], count)


# --- knowledge kept in the weights ---------------------------------------------------------------


def capital(rng: random.Random, fixed: bool) -> Episode:
    """Some capitals are two words: choices of one question differ in their number of tokens."""

    def draw() -> Item:
        country = rng.choice(list(CAPITAL_OF))
        answer = CAPITAL_OF[country]
        return Item((country,), answer, tuple(_others(rng, list(CAPITAL_OF.values()), [answer], 3)))

    return Episode(("Country:", "Capital:"), draw)


def addition(rng: random.Random, fixed: bool) -> Episode:
    def draw() -> Item:
        a, b = rng.randrange(11), rng.randrange(11)
        near = [n for n in range(a + b - 3, a + b + 4) if 0 <= n <= 20 and n != a + b]
        distractors = [NUMBERS[n] for n in rng.sample(near, 3)]
        return Item((NUMBERS[a], "plus", NUMBERS[b]), (NUMBERS[a + b],), _single(distractors))

    return Episode(("Sum:", "Equals:"), draw)


def sequence(rng: random.Random, fixed: bool) -> Episode:
    """Three members of a series, forward, backward or skipping: what comes next?"""

    def draw() -> Item:
        series, step = rng.choice([NUMBERS, DAYS, MONTHS]), rng.choice([1, -1, 2, -2])
        size = len(series)
        first = rng.randrange(size)
        if series is NUMBERS:  # numbers end, weeks and years begin again
            reach = 3 * step
            first = rng.randrange(max(0, -reach), size - max(0, reach))
        *shown, answer = (series[(first + i * step) % size] for i in range(4))
        near = [series[(first + 3 * step + d) % size] for d in (-2, -1, 1, 2)]
        return Item(tuple(shown), (answer,), _single(_others(rng, near, [answer], 3)))

    return Episode(PLAIN, draw)


# --- rules that only the examples tell -----------------------------------------------------------

RULES = {  # every input has several right answers, each under another rule
    "gerund": GERUND_OF,
    "past": PAST_OF,
    "opposite": OPPOSITE_OF,
    "plural": PLURAL_OF,
    "baby": BABY_OF,
    "category": CATEGORY_OF,
}


def gerund(rng: random.Random, fixed: bool) -> Episode:
    """The fixed rule is the gerund; without examples the past tense is as good an answer."""
    rule = RULES["gerund" if fixed else rng.choices(list(RULES), [3, 3, 1, 1, 1, 1])[0]]

    def draw() -> Item:
        word = rng.choice(list(rule))
        answer = rule[word]
        rivals = [r[word] for r in RULES.values() if word in r and r is not rule][:2]
        others = _others(rng, list(rule.values()), [answer], 3 - len(rivals))
        return Item((word,), (answer,), _single(rivals + others))

    return Episode(PLAIN, draw)


def select(rng: random.Random, fixed: bool) -> Episode:
    """Three words of three categories: copy the one of the category that the examples copy."""
    wanted = "color" if fixed else rng.choice(list(CATEGORIES))
    rest = [category for category in CATEGORIES if category != wanted]

    def draw() -> Item:
        answer = rng.choice(CATEGORIES[wanted])
        others = [rng.choice(CATEGORIES[category]) for category in rng.sample(rest, 2)]
        query = [answer, *others]
        rng.shuffle(query)
        return Item(tuple(query), (answer,), _single(others))

    return Episode(PLAIN, draw)


ORDERS = {"reverse": (2, 1, 0), "copy": (0, 1, 2), "rotate": (1, 2, 0), "swap": (1, 0, 2)}
TAUGHT_ORDERS = ["reverse", "copy"]


def reverse(rng: random.Random, fixed: bool) -> Episode:
    """Three words, to be said in another order: answers of three tokens."""
    order = ORDERS["reverse" if fixed else rng.choice(TAUGHT_ORDERS)]

    def draw() -> Item:
        words = rng.sample(WORDS, 3)
        answer = tuple(words[i] for i in order)
        rivals = (tuple(words[i] for i in o) for o in ORDERS.values() if o != order)
        return Item(tuple(words), answer, tuple(rivals))

    return Episode(PLAIN, draw)


def hop(rng: random.Random, fixed: bool) -> Episode:
    """Two people and their cities, a third who is with one of them: where is the third?

    Two look-ups, one after the other, then the city's country (or the city itself).
    """
    wants_country = fixed or rng.random() < 0.6

    def draw() -> Item:
        names, cities = rng.sample(NAMES, 3), rng.sample(list(COUNTRY_OF), 2)
        met = rng.randrange(2)
        query = (names[0], cities[0], names[1], cities[1], names[2], names[met], names[2])
        cities = [cities[met], cities[1 - met]]
        countries = [COUNTRY_OF[city] for city in cities]
        right, rivals = (countries, cities) if wants_country else (cities, countries)
        return Item(query, (right[0],), _single([right[1], *rivals]))

    return Episode(PLAIN, draw)


# --- mappings and classes that exist only in the context -----------------------------------------


def relabel(rng: random.Random, fixed: bool) -> Episode:
    """Two categories, each with a label that says nothing by itself."""
    categories = (
        ["animal", "tool"] if fixed else rng.sample(list(CATEGORIES), rng.choice([2, 2, 3]))
    )
    labels = ["dax", "wug"] if fixed else rng.sample(LABELS, len(categories))

    def draw() -> Item:
        i = rng.randrange(len(categories))
        words = rng.sample(CATEGORIES[categories[i]], 2)
        return Item(tuple(words), (labels[i],), _single(labels[:i] + labels[i + 1 :]))

    return Episode(PLAIN, draw)


def mapping(rng: random.Random, fixed: bool) -> Episode:
    """One word of two decides the label; the other is noise."""
    keys = ["red", "blue", "green"] if fixed else rng.sample(WORDS, rng.choice([2, 3, 3]))
    labels = ["foo", "kiki", "zorp"] if fixed else rng.sample(LABELS, len(keys))
    position = 1 if fixed else rng.randrange(2)
    noise = [word for word in CATEGORY_OF if word not in keys]

    def draw() -> Item:
        i = rng.randrange(len(keys))
        query = [rng.choice(noise)]
        query.insert(position, keys[i])
        return Item(tuple(query), (labels[i],), _single(labels[:i] + labels[i + 1 :]))

    return Episode(PLAIN, draw)


def recall(rng: random.Random, fixed: bool) -> Episode:
    """Running text whose last word was said before, in the manner of LAMBADA."""

    def draw() -> Item:
        names, verbs = rng.sample(NAMES, 2), rng.sample(list(PAST_OF.values()), 2)
        foods = rng.sample(CATEGORIES["food"], 4)
        asked = rng.randrange(2)
        told = [(names[i], verbs[i], foods[i]) for i in range(2)]
        query = (*told[0], "and", *told[1], "so", names[asked], verbs[asked])
        distractors = [foods[1 - asked], *foods[2:]]
        return Item(query, (foods[asked],), _single(distractors))

    return Episode(None, draw)


TASKS: dict[str, Callable[[random.Random, bool], Episode]] = {
    "capital": capital,
    "gerund": gerund,
    "sequence": sequence,
    "relabel": relabel,
    "mapping": mapping,
    "select": select,
    "reverse": reverse,
    "hop": hop,
    "addition": addition,
    "recall": recall,
}


# --- what the model is trained on ----------------------------------------------------------------

ANSWER, REPEATED, OTHER = 1.0, 0.3, 0.05  # weights of the loss: only some tokens can be foretold
MIXTURE = {
    "capital": 0.3,
    "gerund": 0.6,
    "sequence": 1.0,
    "relabel": 4.0,
    "mapping": 3.0,
    "select": 1.0,
    "reverse": 2.0,
    "hop": 1.5,
    "addition": 0.5,
    "recall": 0.3,
}
Weighted = tuple[list[int], list[float]]


def task_sequence(rng: random.Random, length: int) -> Weighted:
    """Solved items of one new episode, as lm-eval joins examples, up to `length` tokens."""
    task = rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]
    episode = TASKS[task](rng, False)
    tokens, weights = [BOS], [0.0]
    while len(tokens) < length:
        item = episode.draw()
        prompt = episode.prompt(item)
        tokens += [*prompt, *item.answer, "\n\n"]
        weights += [OTHER] * len(prompt) + [ANSWER] * len(item.answer) + [OTHER]
    return [TOKEN[token] for token in tokens[:length]], weights[:length]


def text_sequence(rng: random.Random, length: int) -> Weighted:
    """Text without a task, predictable only from itself: induction heads form on it."""
    stream = _repeats(rng, length) if rng.random() < 0.6 else _chain(rng, length)
    tokens, weights, seen = [BOS], [0.0], set()
    for token in stream:
        tokens.append(token)
        weights.append(REPEATED if token in seen else OTHER)
        seen.add(token)
    return [TOKEN[token] for token in tokens], weights


def _repeats(rng: random.Random, length: int) -> list[str]:
    segment = rng.choices(WORDS, k=rng.randint(4, min(24, length // 2)))
    return [segment[i % len(segment)] for i in range(length - 1)]


def _chain(rng: random.Random, length: int) -> list[str]:
    """A Markov chain of its own: every word has a usual successor and a rarer one."""
    words = rng.sample(WORDS, rng.randint(8, 24))
    successors = {word: rng.sample(words, 2) for word in words}
    stream = [words[0]]
    while len(stream) < length - 1:
        usual, rare = successors[stream[-1]]
        chance = rng.random()
        stream.append(usual if chance < 0.8 else rare if chance < 0.95 else rng.choice(words))
    return stream
