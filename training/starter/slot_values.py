"""Random names, places, numbers and things for generated texts.

Names and invented words are made from syllables. A hash of the name selects its split, so the
entities of the measuring split never occur in training.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from training.starter.groups import hash_fraction

HELD_OUT_NAMES: Final = 0.15
"""Share of the names that only the measuring split uses."""

FIRST = (
    "Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karin Leo Mia Nora Oskar Paula Rosa Sam "
    "Tina Vera Will Lena Marco Nina Omar Petra Rita Simon Tom Ulla Yusuf Zoe Alice Bruno Carla "
    "Diego Elena Frank Gina Hans Irene Jack Kate Luis Maria Nils Olga Paul Ruth Sara Theo Ugo "
    "Wang Li Chen Mei Aisha Bilal Dana Eli Farid Hana Ivan Julia Kenji Laila Mary John Lucy Peter"
).split()
ONSETS = (
    "b d f g h k l m n p r s t v w z br dr fr gr kr pr tr st sh ch th sl pl kl gl fl sw tw mc"
).split()
VOWELS = "a e i o u a e i o u ai ea ie oo ou au ei".split()
CODAS = ["", "", "", *"n r s l m t k nd rt ll ck lm st ng rn x ff".split()]
SURNAME_ENDS = "son er man ley ton ini ez ova ski berg field well wood hart ford wick".split()
TOWN_ENDS = (
    "ton ville burg ford stadt field haven mouth bridge wick port dale ham by ou ino".split()
)
WORDS = (
    "River Harbour Garden Hill Lake Forest Castle Mill Station Corner Star Sun Moon Lion Eagle "
    "Rose Oak Apple Silver Golden Blue Green Red White Old New North South East West Bridge Tower "
    "Island Meadow Stone Copper Iron Amber Maple Cedar Willow Falcon Swan Otter Fox Bear Heron "
    "Kettle Lantern Anchor Compass Feather Pebble Thistle Clover Juniper Saffron Velvet Marble"
).split()
KINDS_OF_PLACE = (
    "museum library café restaurant hotel clinic school gallery theatre cinema bakery bookshop "
    "pharmacy gym pool garden zoo market workshop shop studio club hall station inn archive garage "
    "farm brewery chapel tower aquarium hostel salon store office kindergarten college harbour"
).split()
KINDS_OF_PRODUCT = (
    "lamp kettle drill printer bicycle camera phone laptop chair desk oven heater fan mixer watch "
    "radio speaker scooter tent backpack toaster vacuum pump saw router tablet monitor keyboard "
    "fridge washer mower helmet stove clock projector scanner sofa shelf bottle boiler robot"
).split()
THINGS = (
    "map key book ladder hammer cable bag box cup letter coat umbrella ring ticket photo lens "
    "charger basket blanket drum violin painting candle knife parcel notebook pencil hat scarf "
    "mirror bell rope wheel brush jar statue flag broom spoon plate vase guitar poster folder"
).split()
JOBS = (
    "teacher nurse baker driver painter lawyer farmer pilot cook tailor gardener doctor plumber "
    "librarian carpenter dentist engineer journalist waiter photographer designer accountant "
    "translator musician electrician architect firefighter hairdresser programmer biologist"
).split()
FOODS = (
    "soup,bread,cheese,pancakes,noodles,curry,salad,pizza,dumplings,ice cream,apple pie,fish stew,"
    "chocolate cake,fried rice,onion tart,roast chicken,lemon cookies,goat cheese,plum jam,"
    "black tea,white wine,honey,smoked fish,old paintings,blue pottery,wool carpets,glass art"
).split(",")
COLORS = (
    "red blue green yellow black white grey brown orange purple pink silver golden turquoise beige"
).split()
ANIMALS = "dog cat parrot rabbit horse hamster goat turtle snake hen donkey pony".split()
INSTRUMENTS = (
    "piano violin guitar flute drums cello trumpet harp clarinet saxophone organ accordion"
).split()
TONGUES = (
    "English French German Spanish Chinese Italian Dutch Polish Turkish Arabic Japanese Greek "
    "Swedish Russian Korean Portuguese Hindi Finnish"
).split()
VEHICLES = "car van truck motorcycle bus scooter tractor bicycle boat jeep".split()
SUBJECTS = (
    "physics history law medicine music biology chemistry art economics geography mathematics "
    "philosophy engineering literature design architecture"
).split()
HOBBIES = (
    "swimming,painting,chess,long walks,baking,reading,gardening,fishing,photography,climbing,"
    "dancing,cycling,old films,singing,knitting,board games,running,pottery,sailing,yoga"
).split(",")
DUTIES = (
    "garden,archive,website,kitchen,printer,newsletter,coffee machine,first aid kit,invoices,"
    "key cabinet,meeting rooms,orders,travel plans,payroll,library,network,plants,parking spaces,"
    "heating,tax report,customer list,budget,summer party,delivery van,contracts,guest rooms,"
    "fire doors,recycling,mail,telephone system,stage lights,spring concert,annual report"
).split(",")
EVENTS = (
    "book club,flea market,concert,film night,quiz,chess evening,dance class,cooking course,"
    "lantern festival,harvest festival,boat race,winter fair,open day,poetry evening,bake sale,"
    "marathon,music prize,science fair,photo contest,rose festival,spring parade,language course"
).split(",")
PLACES = (
    "behind the building,next to the door,in the cellar,on the roof,at the front desk,in room {n},"
    "on the {k} floor,under the stairs,in the yard,opposite the church,in the {c} cabinet,"
    "in the main hall,on the top shelf,near the river,at the service,beside the {c} gate,"
    "in the garage,across the street,on the {c} table,in the library,in the kitchen,"
    "under the {c} bench,in drawer {n},at gate {n},in the underground car park,"
    "in front of the gate,in the attic,at the east entrance,on the second parking deck,"
    "by the fountain,in box {n}"
).split(",")
PAYMENTS = (
    "cash,credit card,debit card,the original card,bank transfer,mobile phone,gift cards,coins,"
    "a voucher,the customer card,the bank account,cheques"
).split(",")
MATERIALS = (
    "oak wood,steel,glass,recycled plastic,aluminium,leather,cotton,wool,bamboo,copper,stone,clay,"
    "paper,rubber,linen,brass,pine wood,silk,cork,carbon fibre"
).split(",")
LIQUIDS = "water,oil,vinegar,warm water,soap,alcohol,milk,coffee,fuel,lemon juice".split(",")
PARTS = "filter fan door battery motor pump lamp belt sensor tank valve cable lid blade".split()
STATES = "blocked,empty,open,full,too hot,broken,loose,dirty,not connected,worn out".split(",")
BUILDINGS = "town hall,church,castle,mill,bridge,lighthouse,abbey,tower,theatre,granary".split(",")
BOSSES = "director,manager,head,owner,chairwoman,treasurer,team leader,supervisor".split(",")
ATTRIBUTES = (
    "colour size height owner price code name number age weight depth password motto symbol "
    "shape label title status version author level length width speed score limit rank origin "
    "theme budget deadline password access code serial number room number model type category "
    "nickname"
).split()
VERBS = (
    "built painted found sold bought repaired designed cleaned opened wrote discovered invented "
    "borrowed packed moved ordered tested photographed planted checked planned paid signed sent"
).split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
SMALL = (
    "two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty"
).split()
ORDINALS = "first second third fourth fifth".split()
UNITS = "hour day night week month".split()


class SlotValues:
    """Generator of values for one split; `held_out` takes the names of the measuring split."""

    def __init__(self, random_: random.Random, *, held_out: bool = False) -> None:
        self.random = random_
        self.held_out = held_out

    def draw_name(self, make: Callable[[], str]) -> str:
        """Draw names until one is in this split."""
        while True:
            name = make()
            if (hash_fraction(name.lower()) < HELD_OUT_NAMES) == self.held_out:
                return name

    def syllables(self, fewest: int, most: int) -> str:
        """Invent a word."""
        pick = self.random.choice
        count = self.random.randint(fewest, most)
        return "".join(pick(ONSETS) + pick(VOWELS) + pick(CODAS) for _ in range(count))

    def surname(self) -> str:
        """Invent a surname."""
        return (self.syllables(1, 1) + self.random.choice(SURNAME_ENDS)).capitalize()

    def person(self) -> str:
        """Invent a person."""
        first = self.random.choice(FIRST)
        if self.random.random() < 0.15:
            return self.draw_name(lambda: self.syllables(1, 2).capitalize())
        title = self.random.choice(["", "", "", "", "Dr. ", "Ms ", "Mr "])
        surname = self.draw_name(self.surname)
        return title + surname if title else f"{first} {surname}"

    def town(self) -> str:
        """Invent a town."""
        return self.draw_name(
            lambda: (self.syllables(1, 2) + self.random.choice(TOWN_ENDS)).capitalize()
        )

    def brand(self) -> str:
        """Invent a proper name of one or two words."""
        if self.random.random() < 0.4:
            return self.draw_name(lambda: " ".join(self.random.sample(WORDS, 2)))
        return self.draw_name(
            lambda: self.syllables(1, 2).capitalize() + self.random.choice(("", "a", "o", "i"))
        )

    def company(self) -> str:
        """Invent a company."""
        return f"{self.brand()} {self.random.choice(['Ltd', 'Group', 'Works', 'Labs', 'and Sons'])}"

    def place(self) -> str:
        """Invent a museum, shop, hotel and the like."""
        kind = self.random.choice(KINDS_OF_PLACE)
        name = self.brand()
        forms = (
            f"the {name} {kind.capitalize()}",
            f"the {kind} {name}",
            f"the {kind} in {self.town()}",
            f"the {kind}",
            f"our {kind}",
            name,
        )
        return self.random.choices(forms, (5, 3, 2, 2, 1, 1))[0]

    def product(self) -> str:
        """Invent a product."""
        kind = self.random.choice(KINDS_OF_PRODUCT)
        model = f"{self.random.choice('ABCEGKLMPRSTX')}{self.random.randint(1, 99) * 10}"
        forms = (
            f"the {self.brand()} {kind}",
            f"the {kind} {self.brand()}",
            f"the {kind} {model}",
            f"the {self.random.choice(COLORS)} {kind}",
            f"the {kind}",
        )
        return self.random.choices(forms, (4, 3, 2, 2, 1))[0]

    def generic(self) -> str:
        """Draw something with an article."""
        adjective = self.random.choice([*COLORS, "old", "new", "small", "large", "wooden", "heavy"])
        noun = self.random.choice(THINGS + KINDS_OF_PLACE + KINDS_OF_PRODUCT)
        return self.random.choice(
            (f"the {noun}", f"the {adjective} {noun}", f"{self.person()}'s {noun}", self.place())
        )

    def time(self) -> str:
        """Draw a time of day in one of the usual spellings."""
        hour, minute = self.random.randint(1, 12), self.random.choice((0, 0, 15, 30, 45, 10))
        forms = (
            f"{hour} o'clock",
            f"{hour + self.random.choice((0, 11))}:{minute:02d}",
            f"{hour} am",
            f"{hour} pm",
            f"half past {hour}",
            f"{hour}:{minute:02d} am",
            f"{hour}.{minute:02d}",
            "noon",
        )
        return self.random.choices(forms, (5, 5, 2, 2, 1, 2, 1, 0.3))[0]

    def price(self) -> str:
        """Draw an amount of money."""
        whole, cents = self.random.randint(1, 999), self.random.choice((0, 50, 99, 20, 75, 90))
        whole = whole if self.random.random() < 0.4 else whole % 30 + 1
        forms = (
            f"{whole} euros",
            f"${whole}",
            f"{whole} dollars",
            f"£{whole}",
            f"{whole}.{cents:02d} euros",
            f"${whole}.{cents:02d}",
            f"{self.random.choice(SMALL)} euros",
            f"€{whole}",
            f"{whole} francs",
        )
        return self.random.choices(forms, (5, 3, 3, 1, 2, 2, 3, 1, 1))[0]

    def duration(self) -> str:
        """Draw a length of time."""
        unit = self.random.choice(("minutes", "hours", "days", "weeks", "months", "years", "days"))
        number = self.random.choice([*SMALL, *(str(self.random.randint(2, 90)) for _ in range(12))])
        working = "working " if unit == "days" and self.random.random() < 0.3 else ""
        if self.random.random() < 0.08:
            return self.random.choice(("one hour", "one week", "one day", "one month", "one year"))
        return f"{number} {working}{unit}"

    def count(self) -> str:
        """Draw a number."""
        return self.random.choice(
            [
                *SMALL,
                *(str(self.random.randint(2, 60)) for _ in range(14)),
                *(str(self.random.randint(60, 3000)) for _ in range(4)),
            ]
        )

    def date(self) -> str:
        """Draw a day of the year."""
        month, day = self.random.choice(MONTHS), self.random.randint(1, 28)
        return self.random.choice(
            (
                f"{day} {month}",
                f"{month} {day}",
                f"the {day}th of {month}" if day > 3 else f"{month} {day}",
                f"{day} {month} {self.random.randint(2020, 2035)}",
            )
        )

    def people(self) -> str:
        """Draw a population."""
        return f"{self.random.randint(1, 900)},{self.random.choice(('000', '500', '200', '340'))}"

    def phone(self) -> str:
        """Draw a telephone number."""
        digits = self.random.randint
        return self.random.choice(
            (
                f"{digits(100, 999)}-{digits(1000, 9999)}",
                f"0{digits(100, 999)} {digits(10000, 99999)}",
                f"extension {digits(10, 999)}",
                f"+{digits(20, 99)} {digits(100, 999)} {digits(1000, 9999)}",
            )
        )

    def email(self) -> str:
        """Draw an e-mail address."""
        user = self.random.choice(
            ("info", "help", "office", "team", "desk", "hello", "travel", "it")
        )
        host = self.draw_name(lambda: self.syllables(1, 2))
        return f"{user}@{host}.{self.random.choice(('org', 'com', 'example'))}"

    def code(self) -> str:
        """Draw a code such as `K7-204`."""
        digits, pick = self.random.randint, self.random.choice
        return pick(
            (
                f"{pick('ABCEFGHKLMPRSTX')}{digits(1, 9)}-{digits(100, 999)}",
                f"E{digits(1, 99)}",
                f"{self.syllables(1, 2)}{digits(10, 99)}",
                f"{pick(WORDS).lower()}-{pick(WORDS).lower()}",
            )
        )

    def street(self) -> str:
        """Draw an address."""
        name = self.random.choice((self.random.choice(WORDS), self.surname()))
        kind = self.random.choice(("Street", "Road", "Lane", "Square", "Avenue", "Way"))
        number = self.random.randint(1, 150)
        return self.random.choice(
            (f"{number} {name} {kind}", f"{name} {kind}", f"{name} {kind} {number}")
        )

    def spot(self) -> str:
        """Draw a place within reach."""
        text = self.random.choice(PLACES)
        if self.random.random() < 0.3:
            return f"{self.random.choice(('near', 'in', 'behind', 'next to'))} {self.place()}"
        return text.format(
            n=self.random.randint(1, 99),
            k=self.random.choice(ORDINALS),
            c=self.random.choice(COLORS),
        )

    def weight(self) -> str:
        """Draw a weight."""
        number = self.random.randint(2, 900)
        return f"{number} {self.random.choice(('grams', 'kilograms', 'kg', 'pounds'))}"

    def length(self) -> str:
        """Draw a length."""
        unit = self.random.choice(("metres", "centimetres", "cm", "inches", "feet"))
        return f"{self.random.randint(2, 300)} {unit}"

    def draw(self, slot: str) -> str:
        """Draw the value of a slot by its name; a trailing digit is ignored."""
        slot = slot.rstrip("0123456789").lower()
        makers = self._makers()
        return makers[slot]() if slot in makers else self.random.choice(LISTS[slot])

    def _makers(self) -> dict[str, Callable[[], str]]:
        return {
            "person": self.person,
            "town": self.town,
            "company": self.company,
            "time": self.time,
            "price": self.price,
            "duration": self.duration,
            "count": self.count,
            "date": self.date,
            "people": self.people,
            "phone": self.phone,
            "email": self.email,
            "code": self.code,
            "street": self.street,
            "spot": self.spot,
            "weight": self.weight,
            "length": self.length,
            "year": lambda: str(self.random.randint(1650, 2030)),
            "age": lambda: str(self.random.randint(3, 99)),
            "number": lambda: str(self.random.randint(1, 200)),
            "room": lambda: str(self.random.randint(1, 500)),
            "percent": lambda: (
                f"{self.random.randint(2, 60)} {self.random.choice(('percent', '%'))}"
            ),
            "pet": lambda: self.draw_name(lambda: self.syllables(1, 2).capitalize()),
            "river": self.brand,
            "word": self._word,
            "country": lambda: self.draw_name(lambda: self.syllables(2, 3).capitalize() + "ia"),
        }

    def _word(self) -> str:
        return self.random.choice(
            (self.random.choice(COLORS), self.code(), self.brand(), self.random.choice(THINGS))
        )


LISTS: Final[dict[str, tuple[str, ...]]] = {
    "day": tuple(DAYS),
    "month": tuple(MONTHS),
    "job": tuple(JOBS),
    "food": tuple(FOODS),
    "color": tuple(COLORS),
    "animal": tuple(ANIMALS),
    "instrument": tuple(INSTRUMENTS),
    "language": tuple(TONGUES),
    "vehicle": tuple(VEHICLES),
    "subject": tuple(SUBJECTS),
    "hobby": tuple(HOBBIES),
    "duty": tuple(DUTIES),
    "event": tuple(EVENTS),
    "payment": tuple(PAYMENTS),
    "material": tuple(MATERIALS),
    "liquid": tuple(LIQUIDS),
    "part": tuple(PARTS),
    "state": tuple(STATES),
    "building": tuple(BUILDINGS),
    "boss": tuple(BOSSES),
    "attribute": tuple(ATTRIBUTES),
    "verb": tuple(VERBS),
    "thing": tuple(THINGS),
    "unit": tuple(UNITS),
    "direction": ("North", "South", "East", "West", "Central", "Harbour", "Market"),
}
"""Slots that are drawn from a closed list."""
