"""The goods, the shoppers and a year of clicks: made up, seeded, the same everywhere.

A shop of your own has these already. What is in here matters to the example only in
one way: the clicks follow tastes (in departments, colours, styles, brands and prices),
so that recommendations made from them can be looked at and judged.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

DAYS = 365

# name, hex: what the pictures are painted with.
COLOURS = {
    "Moss": "#6d8a55",
    "Slate": "#63788a",
    "Rust": "#bb5d3c",
    "Navy": "#3a5684",
    "Charcoal": "#56555b",
    "Sand": "#c7a468",
    "Crimson": "#b5404f",
    "Teal": "#2d8784",
    "Plum": "#80507b",
    "Mustard": "#d79f31",
    "Sky": "#6ca4cf",
    "Blush": "#d98d86",
}
STYLES = {
    "Nordic": "Pale, plain and quiet: nothing on it that it does not need.",
    "Heritage": "Made the way it was made a hundred years ago, and repairable.",
    "Studio": "Clean lines and exact edges, drawn by people who use it every day.",
    "Workshop": "Built to be dropped, scratched and handed on.",
}
LINES = [
    "Alba", "Aspen", "Aster", "Beacon", "Birch", "Boreal", "Canyon", "Cascade",
    "Cedar", "Cirrus", "Comet", "Coppice", "Crest", "Dune", "Ember", "Fern",
    "Field", "Fjord", "Flint", "Gale", "Grove", "Halo", "Harbour", "Hazel", "Heron",
    "Isla", "Juniper", "Kite", "Lagoon", "Larch", "Linden", "Lyra", "Marten",
    "Meadow", "Mesa", "Mira", "Nimbus", "Nova", "Orchard", "Osprey", "Petrel",
    "Pico", "Quarry", "Ridge", "Rowan", "Sable", "Sierra", "Solace", "Summit",
    "Tarn", "Thicket", "Tide", "Vale", "Vega", "Willow", "Wren",
]  # fmt: skip


@dataclass(frozen=True)
class Category:
    """One shelf: its products are called "LINE VARIANT"."""

    slug: str
    name: str
    department: str
    price: float
    variants: tuple[str, ...]
    made_of: tuple[str, ...]  # one per variant
    says: str


@dataclass(frozen=True)
class Shopper:
    """A customer with pronounced tastes: sign in as one and compare."""

    name: str
    departments: dict[str, float]
    colours: tuple[str, ...]
    likes: str


SHOPPERS = {
    "ada": Shopper("Ada", {"coffee": 0.8, "desk": 0.2}, ("Rust", "Mustard", "Sand"),
                   "coffee, in warm colours"),
    "bo": Shopper("Bo", {"trail": 0.75, "ride": 0.25}, ("Moss", "Teal"),
                  "the trail, in greens"),
    "chidi": Shopper("Chidi", {"plants": 0.7, "kitchen": 0.3}, ("Blush", "Plum"),
                     "plants and pots, in pinks"),
    "dara": Shopper("Dara", {"desk": 0.6, "ride": 0.4}, ("Navy", "Sky", "Slate"),
                    "desk and bicycle, in blues"),
}  # fmt: skip
DEPARTMENTS = {
    "trail": ("Trail", "Days out, nights under canvas"),
    "coffee": ("Coffee & Tea", "For slow mornings"),
    "desk": ("Desk", "A good place to think"),
    "plants": ("Plants", "Something green in every room"),
    "kitchen": ("Kitchen", "Tools that earn their hook"),
    "ride": ("Ride", "Two wheels, all weathers"),
}
BRANDS = {
    "trail": ["Fjellvik", "Cairnline", "Tarn & Fell", "Nordlys", "Highmark", "Holm"],
    "coffee": ["Kettlewell", "Hinoki", "Marlow", "Ondine", "Sable & Steam", "Holm"],
    "desk": ["Atelier Nord", "Paperweight", "Quill & Co", "Fieldnote", "Halden"],
    "plants": ["Fern & Clay", "Greenhand", "Oxalis", "Verdane", "Terra Alba", "Marlow"],
    "kitchen": ["Ironside", "Larder", "Copperfen", "Saltmarsh", "Hinoki", "Halden"],
    "ride": ["Velmora", "Spoke & Pine", "Pedaler", "Westering", "Corvane", "Highmark"],
}  # fmt: skip
CATEGORIES = [
    Category("tents", "Tents", "trail", 290,
             ("two-person tent", "dome tent", "tipi tent"),
             ("ripstop nylon", "recycled polyester", "waxed cotton"),
             "Pitches in five minutes and sheds wind from every side."),
    Category("backpacks", "Backpacks", "trail", 120,
             ("day pack", "roll-top pack", "trekking pack"),
             ("waxed canvas", "recycled nylon", "ripstop nylon"),
             "Carries close to the back and swallows more than it shows."),
    Category("lanterns", "Lanterns", "trail", 55,
             ("camp lantern", "storm lantern", "rechargeable lantern"),
             ("powder-coated steel", "brass and glass", "aluminium"),
             "Warm light for the table, dim enough for the tent."),
    Category("flasks", "Flasks", "trail", 34,
             ("insulated flask", "water bottle", "wide-mouth flask"),
             ("double-walled steel", "titanium", "double-walled steel"),
             "Keeps tea hot until the summit and water cold until the lake."),
    Category("mugs", "Mugs", "coffee", 22,
             ("stoneware mug", "enamel mug", "espresso cup"),
             ("stoneware", "enamelled steel", "porcelain"),
             "Sits well in the hand and holds its heat to the last sip."),
    Category("kettles", "Kettles", "coffee", 85,
             ("gooseneck kettle", "stovetop kettle", "electric kettle"),
             ("copper", "enamelled steel", "brushed steel"),
             "A slow, exact pour, and a handle that stays cool."),
    Category("grinders", "Grinders", "coffee", 110,
             ("hand grinder", "travel grinder", "burr grinder"),
             ("beech and brass", "aluminium", "walnut and steel"),
             "Steel burrs, thirty clicks from espresso to press."),
    Category("teapots", "Teapots", "coffee", 58,
             ("teapot", "cast-iron teapot", "infuser teapot"),
             ("glazed stoneware", "cast iron", "porcelain"),
             "Pours without a drip; the strainer lifts out."),
    Category("lamps", "Desk lamps", "desk", 130,
             ("task lamp", "reading lamp", "clamp lamp"),
             ("spun aluminium", "powder-coated steel", "oak and steel"),
             "Puts light where the work is and keeps it out of your eyes."),
    Category("notebooks", "Notebooks", "desk", 19,
             ("dotted notebook", "hardcover notebook", "sketchbook"),
             ("recycled paper", "linen and 100 g paper", "cotton paper"),
             "Opens flat, takes ink well and survives a coat pocket."),
    Category("pencils", "Pens & pencils", "desk", 26,
             ("pencil set", "colour pencil set", "brush pen set"),
             ("cedar", "basswood", "bamboo"),
             "A cup of good things to write and draw with."),
    Category("headphones", "Headphones", "desk", 180,
             ("over-ear headphones", "studio headphones", "wireless headphones"),
             ("aluminium and leather", "recycled plastic", "walnut and steel"),
             "Closed, calm and comfortable through a whole afternoon."),
    Category("houseplants", "Houseplants", "plants", 32,
             ("rubber plant", "snake plant", "monstera"),
             ("in a glazed pot", "in a terracotta pot", "in peat-free soil"),
             "Forgives a forgotten week and likes a bright corner."),
    Category("watering", "Watering cans", "plants", 38,
             ("watering can", "long-spout watering can", "indoor watering can"),
             ("galvanised steel", "powder-coated steel", "copper"),
             "Balanced when full; the rose comes off for seedlings."),
    Category("vases", "Vases", "plants", 44,
             ("bud vase", "tall vase", "round vase"),
             ("porcelain", "mouth-blown glass", "stoneware"),
             "Looks finished with a single stem in it."),
    Category("terrariums", "Terrariums", "plants", 64,
             ("glass terrarium", "moss garden", "fern terrarium"),
             ("glass and cork", "recycled glass", "glass and brass"),
             "A closed garden that waters itself."),
    Category("pans", "Pans", "kitchen", 95,
             ("frying pan", "saucepan", "skillet"),
             ("carbon steel", "enamelled iron", "cast iron"),
             "Heats evenly, browns properly, goes from hob to oven."),
    Category("knives", "Knives", "kitchen", 88,
             ("chef's knife", "paring knife", "bread knife"),
             ("layered steel", "carbon steel", "stainless steel"),
             "Takes an edge easily and keeps it for months."),
    Category("bowls", "Bowls", "kitchen", 30,
             ("mixing bowl", "serving bowl", "noodle bowl"),
             ("enamelled steel", "stoneware", "porcelain"),
             "Stacks neatly and comes to the table."),
    Category("boards", "Cutting boards", "kitchen", 48,
             ("cutting board", "serving board", "bread board"),
             ("oak", "walnut", "beech"),
             "Kind to the knife, with feet that stay put."),
    Category("bicycles", "Bicycles", "ride", 890,
             ("city bicycle", "gravel bicycle", "touring bicycle"),
             ("lugged steel", "aluminium", "recycled aluminium"),
             "Geared for hills, with room for wide tyres and mudguards."),
    Category("helmets", "Helmets", "ride", 79,
             ("city helmet", "road helmet", "trail helmet"),
             ("in-mould shell", "recycled shell", "cork and shell"),
             "Light, ventilated and easy to fit with one hand."),
    Category("panniers", "Panniers", "ride", 92,
             ("roll-top pannier", "city pannier", "touring pannier"),
             ("welded tarpaulin", "waxed canvas", "recycled polyester"),
             "Clicks on, stays on, keeps the rain out."),
    Category("bells", "Bells & lights", "ride", 24,
             ("brass bell", "dome bell", "striker bell"),
             ("brass", "aluminium", "steel"),
             "A clear, friendly ring that carries."),
]  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much to make."""

    products: int
    customers: int
    sessions: int


SIZES = {"full": Size(2400, 3000, 16_000), "small": Size(480, 500, 2200)}


@dataclass(frozen=True)
class Product:
    """One row of the catalogue."""

    id: int
    category: int  # place in CATEGORIES, from 1
    name: str
    brand: str
    colour: str
    style: str
    variant: int
    description: str
    price: str
    in_stock: bool
    created_at: datetime


@dataclass(frozen=True)
class Shop:
    """What fills the tables; an event is (customer, product, kind, time)."""

    products: list[Product]
    customers: list[tuple[int, str, datetime]]
    events: list[tuple[int, int, str, datetime]]


def size() -> Size:
    """Return the size that SHOP_SIZE names; default "full"."""
    return SIZES[os.environ.get("SHOP_SIZE", "full")]


def make(wanted: Size, *, until: datetime | None = None, seed: int = 7) -> Shop:
    """Make the shop; the last click is at ``until``, default now."""
    rng = np.random.default_rng(seed)
    end = until or datetime.now(UTC)
    products = _products(rng, wanted.products, end)
    tastes = _Tastes(rng, wanted.customers)
    who, what, kind, day = _clicks(rng, products, tastes, wanted.sessions, end)
    start = end - timedelta(days=DAYS)
    times = [start + timedelta(days=float(d)) for d in day]
    kinds = ("view", "cart", "purchase")
    events = [
        (int(u) + 1, products[i].id, kinds[k], t)
        for u, i, k, t in zip(who, what, kind, times, strict=True)
    ]
    joined = start - timedelta(days=1)
    named = list(SHOPPERS)
    customers = [
        (n, named[n - 1] if n <= len(named) else f"shopper{n}", joined)
        for n in range(1, wanted.customers + 1)
    ]
    return Shop(products, customers, events)


def _products(rng: np.random.Generator, n: int, end: datetime) -> list[Product]:
    made: list[Product] = []
    taken: set[tuple[str, str]] = set()
    colours, styles = list(COLOURS), list(STYLES)
    # A brand leans to two styles; a made-up shop is more believable with habits.
    habit = {
        brand: rng.choice(len(styles), 2, replace=False)
        for names in BRANDS.values()
        for brand in names
    }
    for number in range(1, n + 1):
        place = (number - 1) % len(CATEGORIES)
        category = CATEGORIES[place]
        while True:
            brand = str(rng.choice(BRANDS[category.department]))
            variant = int(rng.integers(len(category.variants)))
            line = str(rng.choice(LINES))
            colour = str(rng.choice(colours))
            name = f"{line} {category.variants[variant]}"
            if (f"{brand} {name}", colour) not in taken:
                break
        taken.add((f"{brand} {name}", colour))
        free = rng.random() < 0.2
        style = styles[
            int(rng.integers(len(styles))) if free else int(rng.choice(habit[brand]))
        ]
        made_of = category.made_of[variant]
        price = category.price * (0.8 + 0.25 * variant) * np.exp(rng.normal(0, 0.2))
        # A tenth came in the last four weeks.
        age = rng.uniform(0, 28) if rng.random() < 0.1 else rng.uniform(28, 900)
        made.append(
            Product(
                number, place + 1, name, brand, colour, style, variant,
                f"{category.says} {made_of[0].upper()}{made_of[1:]}. {STYLES[style]}",
                f"{max(4, round(float(price))) - 0.05:.2f}",
                bool(rng.random() < 0.94),
                end - timedelta(days=float(age)),
            )
        )  # fmt: skip
    return made


class _Tastes:
    """What each customer likes; one row per customer."""

    def __init__(self, rng: np.random.Generator, n: int) -> None:
        departments, colours = list(DEPARTMENTS), list(COLOURS)
        brands = sorted({brand for names in BRANDS.values() for brand in names})
        self.department = rng.dirichlet(np.full(len(departments), 0.3), n)
        self.category = rng.normal(0, 0.7, (n, len(CATEGORIES)))
        # Two or three colours each, the others hardly ever.
        self.colour = np.where(rng.random((n, len(colours))) < 0.22, 1.4, -0.3)
        self.style = rng.normal(0, 1.0, (n, len(STYLES)))
        self.brand = rng.normal(0, 0.7, (n, len(brands)))
        self.price = rng.normal(0, 0.35, n)
        self.visits = rng.gamma(1.0, 1, n) + 0.1
        self.brands = brands
        for row, one in enumerate(SHOPPERS.values()):
            self.department[row] = [one.departments.get(d, 0.0) for d in departments]
            self.colour[row] = [2.6 if c in one.colours else -0.6 for c in colours]
            self.visits[row] = 4.0


def _clicks(
    rng: np.random.Generator,
    products: list[Product],
    tastes: _Tastes,
    sessions: int,
    end: datetime,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw sessions: a customer, a department, a few things looked at, some bought."""
    share = tastes.visits / tastes.visits.sum()
    user = rng.choice(len(share), sessions, p=share)
    when = DAYS * np.sqrt(rng.random(sessions))  # the shop grows
    edges = np.cumsum(tastes.department[user], axis=1)
    where = (rng.random(sessions)[:, None] > edges).sum(1)
    category = np.array([p.category - 1 for p in products])
    home = np.array([list(DEPARTMENTS).index(c.department) for c in CATEGORIES])
    colour = np.array([list(COLOURS).index(p.colour) for p in products])
    style = np.array([list(STYLES).index(p.style) for p in products])
    brand = np.array([tastes.brands.index(p.brand) for p in products])
    base = np.array([c.price for c in CATEGORIES])[category]
    level = np.log(np.array([float(p.price) for p in products]) / base)
    launch = np.array([DAYS - (end - p.created_at).total_seconds() / 86_400
                       for p in products])  # fmt: skip
    quality = rng.normal(0, 0.9, len(products))
    parts = []
    for department in range(len(DEPARTMENTS)):
        mine = np.flatnonzero(where == department)
        shelf = np.flatnonzero(home[category] == department)
        u = user[mine]
        liking = quality[shelf] + tastes.category[u][:, category[shelf]]
        # Who looks at a kettle compares kettles: most of a visit is on one shelf.
        shelves = np.unique(category[shelf])
        drawn = tastes.category[u][:, shelves]
        drawn = shelves[(drawn + rng.gumbel(0, 1, drawn.shape)).argmax(1)]
        liking += 4.5 * (category[shelf] == drawn[:, None])
        liking += tastes.colour[u][:, colour[shelf]]
        liking += tastes.style[u][:, style[shelf]]
        liking += tastes.brand[u][:, brand[shelf]]
        liking -= 1.5 * np.abs(level[shelf] - tastes.price[u, None])
        seen = liking + rng.gumbel(0, 1, liking.shape)  # the best n: n draws
        seen[launch[shelf] > when[mine, None]] = -np.inf
        depth = np.minimum(rng.geometric(0.24, len(mine)) + 1, 9)
        order = np.argsort(-seen, axis=1)[:, :9]
        row, rank = np.nonzero(np.arange(9) < depth[:, None])
        item = order[row, rank]
        fits = np.isfinite(seen[row, item])
        row, rank, item = row[fits], rank[fits], item[fits]
        parts.append((u[row], shelf[item], when[mine][row] + rank * 80 / 86_400,
                      liking[row, item]))  # fmt: skip
    who, what, day, liked = (np.concatenate(p) for p in zip(*parts, strict=True))
    eager = (liked - liked.mean()) / liked.std()
    cart = np.flatnonzero(rng.random(len(who)) < 1 / (1 + np.exp(1.8 - eager)))
    buy = cart[rng.random(len(cart)) < 0.45]
    index = np.concatenate([np.arange(len(who)), cart, buy])
    kind = np.repeat([0, 1, 2], [len(who), len(cart), len(buy)])
    day = np.minimum(day[index] + kind * 0.002, DAYS)
    order = np.argsort(day, kind="stable")
    return who[index][order], what[index][order], kind[order], day[order]
