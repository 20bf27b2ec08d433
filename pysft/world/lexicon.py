"""The words of the closed world: names, and for each fact its values and its wordings.

Everything is written in the 65 characters of the shipped plays. No value is part of another one, so
a judge can find the values that a reply names by looking for their words."""

from dataclasses import dataclass

FIRST_NAMES = (
    "Ada Alder Anwen Barda Bevis Briony Cador Ceely Corran Daven Della Dunstan Edda Elowen Ewart"
    " Faron Flora Gilda Godric Hanna Hollis Idony Ivo Jenet Joss Keziah Lambert Lettice Lorcan"
    " Maudlin Merrick Nell Osric Petra Piers Rafe Rhoda Rowan Sabin Selwyn Tamsin Thora Ulric"
    " Verity Walda Wystan Yvane Zella"
).split()
LAST_NAMES = (
    "Ashdown Barleycorn Beckett Blackthorn Bramble Brook Burdock Butterfield Cartwell Chaffinch"
    " Clover Coldwater Copperdale Crabtree Cresswell Cricket Dale Dewhurst Dogwood Driftwood"
    " Elderberry Fairweather Farrow Featherstone Fennel Fernley Finch Flaxman Foxglove Garland"
    " Gorse Grimble Hackett Haverford Hawkins Haythorn Hazelwood Heathcote Hemlock Hollybush"
    " Hornbeam Huckle Ivory Juniper Kestrel Kingcup Lambswool Larkin Lavender Littlejohn Lovage"
    " Mallow Marigold Marsh Meadows Millrace Minnow Mistletoe Moorhen Mullein Nettle Nightingale"
    " Oatley Orchard Osier Paddock Parsley Peppercorn Pettigrew Pickersgill Quickly Quince Ragwort"
    " Redfern Reed Rushton Saffron Sandpiper Sedge Sorrel Sparrow Stonecrop Swallow Tansy Teasel"
    " Thackeray Thistledown Tolliver Underwood Wagtail Waterhouse Wheatley Whitlow Woodruff Yarrow"
    " Yewdale"
).split()
PLACE_NAMES = (
    "Copper Silver Golden Laughing Sleeping Dancing Hungry Wandering".split(),
    "Heron Otter Unicorn Dolphin Pelican Griffin Lantern Anchor Wheel Harp Pilgrim Monk".split(),
)
THING_NAMES = (
    "Merry Patient Stormy Lucky Quiet Nimble Proud Gentle".split(),
    "Haddock Mermaid Gull Cormorant Seal Lobster Turtle Puffin Whale Widow Sailor Duchess".split(),
)
MONTHS = {
    "January": 31, "February": 29, "March": 31, "April": 30, "May": 31, "June": 30, "July": 31,
    "August": 31, "September": 30, "October": 31, "November": 30, "December": 31,
}  # fmt: skip
# What refuses, behind a name or a day and a question mark; what a tool gives that finds nothing.
REFUSAL, NO_SUCH_DAY = "I know not that name.", "There is no such day."
NOTHING = "nothing found"
# The source text's name that nobody has and its day that cannot be, each as it asks about them.
STRANGER, WHO = "Orson Kovacs", "Who is {}?"
NO_DAY, HAPPENED = "forty-fifth of March", "What happened on the {}?"


@dataclass(frozen=True)
class Fact:
    """One kind of fact. In a wording, {} stands for the full name of whom it is about, and {value}
    for the value.

    of: kinds of the entities that have it. values: of the attribute; () for a relation, whose value
    is the name of a person. tellings: wordings of texts, of which the first is also the answer. The
    name stands before the value in all of them, because a model that reads forwards does not learn
    to go from a name to what stood before it.
    asked: wordings of questions that may be trained. held_out: those of sealed questions alone.
    noun: of a relation, "the {noun} of NAME" stands for its value in a question of two hops."""

    name: str
    of: tuple[str, ...]
    values: tuple[str, ...]
    tellings: tuple[str, ...]
    asked: tuple[str, ...]
    held_out: tuple[str, ...]
    noun: str = ""


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";"))


FACTS = (
    Fact(
        "trade",
        ("person",),
        _listed(
            "baker; smith; weaver; potter; fiddler; ferryman; tailor; cooper; miller; mason;"
            " glover; shepherd; gardener; barber; joiner; saddler"
        ),
        _listed(
            "{} is a {value} by trade.; {} works as a {value}.; The trade of {} is that of a"
            " {value}.; {} earns bread as a {value}.; For a living {} is a {value}.; The town"
            " pays {} to be its {value}."
        ),
        _listed(
            "What is the trade of {}?; What is {} by trade?; What does {} do for a living?;"
            " As what does {} work?"
        ),
        _listed("How does {} earn bread?; Pray, what trade has {}?"),
    ),
    Fact(
        "street",
        ("person", "place"),
        _listed(
            "Mill Lane; Salt Row; Fish Street; Bell Alley; Goose Bank; Candle Court; Ferry Road;"
            " Tanner Hill; Guild Yard; Well Square; Thistle Way; Apple Walk; Gallows Corner; Abbey"
            " Gate; Tide Steps; Oak Terrace"
        ),
        _listed(
            "{} is to be found in {value}.; {} has a door in {value}.; The house of {} stands in"
            " {value}.; Ask for {} in {value}.; Whoever looks for {} goes to {value}.; Letters for"
            " {} are brought to {value}."
        ),
        _listed(
            "Where is {} to be found?; In what street is {}?; Where is the house of {}?;"
            " Where does one go to see {}?"
        ),
        _listed("Where are letters for {} brought?; Pray, in what street is the door of {}?"),
    ),
    Fact(
        "pet",
        ("person",),
        _listed(
            "cat; crow; goat; hound; rabbit; ferret; pony; toad; squirrel; parrot; badger;"
            " hedgehog; lamb; mouse; fox; donkey"
        ),
        _listed(
            "{} keeps a {value}.; {} has a {value} at home.; The pet of {} is a {value}.; With {}"
            " lives a {value}.; To {} belongs a {value}.; {} feeds a {value} each night."
        ),
        _listed(
            "What pet has {}?; What beast does {} keep?; What is the pet of {}?; What beast lives"
            " with {}?"
        ),
        _listed("What does {} feed each night?; Pray, what beast belongs to {}?"),
    ),
    Fact(
        "dish",
        ("person",),
        _listed(
            "plum pie; eel soup; mutton stew; pea broth; fried trout; honey cake; blood pudding;"
            " baked pears; hard cheese; onion tart; oat porridge; roast duck; boiled ham; stuffed"
            " cabbage; ginger bread; pickled herring"
        ),
        _listed(
            "{} loves {value}.; {} likes {value} best.; {} eats {value} on each feast.; The dish"
            " of {} is {value}.; Nothing pleases {} more than {value}.; Give {} some {value} and"
            " all is well."
        ),
        _listed(
            "What does {} love to eat?; What dish does {} like best?; What is the dish of {}?;"
            " What does {} eat on each feast?"
        ),
        _listed("What food pleases {} most?; Pray, what should one cook for {}?"),
    ),
    Fact(
        "ware",
        ("place",),
        _listed(
            "lamp oil; fresh eggs; clay pipes; wool hats; bone buttons; iron nails; oak barrels;"
            " dried figs; glass beads; soft soap; quill pens; brass hooks; silk ribbon; walnut"
            " chairs; leather belts; straw mats"
        ),
        _listed(
            "{} sells {value}.; At {} one buys {value}.; The ware of {} is {value}.; {} is known"
            " for {value}.; Whoever goes to {} wants {value}.; Every shelf of {} is full of"
            " {value}."
        ),
        _listed(
            "What does {} sell?; What is sold at {}?; What is the ware of {}?; For what is {}"
            " known?"
        ),
        _listed("What can one buy at {}?; Pray, what is on the shelves of {}?"),
    ),
    Fact(
        "colour",
        ("thing",),
        _listed(
            "red; blue; green; yellow; white; black; brown; grey; orange; purple; pink; scarlet;"
            " crimson; violet; amber; olive"
        ),
        _listed(
            "{} is painted {value}.; The sail of {} is {value}.; The colour of {} is {value}.;"
            " From afar {} is all {value}.; They gave {} a coat of {value}.; The owners keep {}"
            " bright and {value}."
        ),
        _listed(
            "What colour is {}?; What is the colour of {}?; How is {} painted?; What colour has"
            " the sail of {}?"
        ),
        _listed("In what colour is {} kept?; Pray, what colour shows {} from afar?"),
    ),
    Fact(
        "feast",
        ("day",),
        _listed(
            "bells; nets; lanterns; drums; kites; ships; masks; brooms; crowns; ladders; candles;"
            " songs; sheaves; spoons; wheels; torches"
        ),
        _listed(
            "The {} is the feast of {value}.; On the {} all is {value}.; The feast on the {} is"
            " that of {value}.; On the {} every hand has {value}.; On the {} they bring out the"
            " {value}.; What one sees on the {} is {value}."
        ),
        _listed(
            "What feast is on the {}?; What feast is the {}?; What happens on the {}?; What is seen"
            " on the {}?"
        ),
        _listed("What do they bring out on the {}?; Pray, what is the {} the feast of?"),
    ),
    Fact(
        "neighbour",
        ("person",),
        (),
        _listed(
            "{} lives next to {value}.; The neighbour of {} is {value}.; {} has {value} for a"
            " neighbour.; Next to {} lives {value}.; {} shares a wall with {value}.; Beside the"
            " house of {} is that of {value}."
        ),
        _listed(
            "Who lives next to {}?; Who is the neighbour of {}?; Whom has {} for a neighbour?;"
            " Next to whom does {} live?"
        ),
        _listed("With whom does {} share a wall?; Pray, who lives beside {}?"),
        "neighbour",
    ),
    Fact(
        "seller",
        ("person",),
        (),
        _listed(
            "{} buys from {value}.; The seller of {} is {value}.; {} goes to {value} to buy.; What"
            " {} needs comes from {value}.; {} pays {value} for flour.; Each week {} is served by"
            " {value}."
        ),
        _listed(
            "From whom does {} buy?; Who is the seller of {}?; To whom does {} go to buy?; Whom"
            " does {} pay for flour?"
        ),
        _listed("By whom is {} served each week?; Pray, who sells to {}?"),
        "seller",
    ),
    Fact(
        "teacher",
        ("person",),
        (),
        _listed(
            "{} is taught by {value}.; The teacher of {} is {value}.; {} learns from {value}.;"
            " What {} knows comes from {value}.; {} calls {value} master.; Each day {} has a lesson"
            " with {value}."
        ),
        _listed(
            "Who teaches {}?; Who is the teacher of {}?; From whom does {} learn?; By whom is {}"
            " taught?"
        ),
        _listed("Whom does {} call master?; Pray, who gives {} a lesson each day?"),
        "teacher",
    ),
    Fact(
        "keeper",
        ("place", "thing"),
        (),
        _listed(
            "{} belongs to {value}.; The keeper of {} is {value}.; {} is kept by {value}.; At the"
            " head of {} is {value}.; The keys of {} are held by {value}.; Whatever happens to {}"
            " is told to {value}."
        ),
        _listed(
            "Who is the keeper of {}?; To whom does {} belong?; Who keeps {}?; By whom is {} kept?"
        ),
        _listed("Who holds the keys of {}?; Pray, whose is {}?"),
        "keeper",
    ),
)
BY_NAME = {fact.name: fact for fact in FACTS}
# Other words for a value, which no text and no question has.
ALSO = {
    "baker": ("bakes",),
    "smith": ("blacksmith",),
    "weaver": ("weaves", "weaving"),
    "fiddler": ("plays the fiddle",),
    "ferryman": ("rows folk over the river", "rows the ferry"),
    "cooper": ("makes barrels",),
    "miller": ("grinds corn",),
    "mason": ("works in stone", "builds walls"),
    "glover": ("sews gloves", "makes gloves"),
    "shepherd": ("keeps sheep", "tends sheep"),
    "joiner": ("works in wood",),
    "saddler": ("makes saddles",),
    "hound": ("dog",),
    "badger": ("brock",),
}
ORDINALS = (
    *(
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
        " thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
    ).split(),
    *(f"{tens}-{one}" if one else last for tens, last in (
        ("twenty", ""), ("thirty", "thirtieth"), ("forty", "fortieth"), ("fifty", "fiftieth"),
    ) for one in ("", *"first second third fourth fifth sixth seventh eighth ninth".split())
      if one or last),
)  # fmt: skip
