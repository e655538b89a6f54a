"""The word lists of the nano world: plain English words, chosen for it, and name syllables."""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


ONSETS = _words("b br c ch d dr f fl g gr h j k l m n p pr qu r s sh st t th tr v w y z")
VOWELS = _words("a e i o u ai ea ia io oo")
CODAS = _words("l m n r s t nd rk ll ck x sk")
TOWN_ENDS = _words("ford ton wick mouth vale burgh by haven port mere stead cross")
ANIMAL_ENDS = _words("el ak oo ling ix erel unk ipper otter")
FOODS = _words(
    """
    sandwich pie cake soup stew pancake biscuit apple pear plum cheese omelette dumpling waffle
    melon noodle sausage salad tart bun roll pudding chestnut cherry carrot
    """
)
THINGS = _words(
    """
    book boat kite drum flute lamp ladder basket bicycle kettle mirror clock bell candle hammer
    blanket bottle button camera carpet chair coat compass cup feather fiddle glove hat jar key
    knife letter map needle net paper pencil pillow plate puppet ribbon ring rope saddle scarf
    shoe spoon statue stone sword table telescope ticket tower trumpet umbrella violin wagon
    wheel whistle window wire coin bucket brush box bowl blade bench barrel banner balloon
    anchor
    """
)
PLACES = _words(
    """
    park garden square bridge harbour market river tower hill beach forest museum library meadow
    field lake mill station theatre yard street lane church castle cave orchard island valley
    school kitchen cellar attic barn stable workshop bakery office palace village
    """
)
ADJECTIVES = _words(
    """
    sunny rainy old new small large quiet loud green red blue yellow white black grey brown warm
    cold bright dark soft hard sweet sour bitter gentle wild clever brave lazy busy empty full
    heavy light long short narrow wide deep shallow early late fresh dry wet clean dusty golden
    silver wooden broken gold strange famous secret hidden frozen silent rough smooth round tall
    rich poor
    """
)
TIMES = _words(
    "day morning evening night afternoon week month summer winter spring autumn hour year"
)
VERBS = _words(
    """
    sit walk dance sing sleep run swim read paint draw play rest wait climb fish cook talk laugh
    dream row ride skate jump write whisper listen
    """
)
ACTIONS = _words(
    """
    eat drink watch buy carry paint repair build sell find feed follow borrow taste count
    collect clean draw read hear open close mend cook bring hide wash throw catch polish
    """
)
PAST = _words(
    """
    walked waited worked sat slept sang danced talked laughed rested stayed lived stood played
    looked listened arrived returned stopped wandered
    """
)
PAST_ACTIONS = _words(
    """
    carried found sold bought painted repaired built opened closed watched borrowed lost counted
    cleaned brought hid washed threw mended kept wanted needed made took left saw heard
    """
)
ADVERBS = _words(
    """
    slowly quickly quietly often never always sometimes again together alone twice today
    yesterday finally gladly carefully badly soon already still perhaps almost
    """
)
PEOPLE = _words(
    """
    farmer baker sailor teacher doctor painter singer weaver miller potter tailor carpenter
    gardener shepherd hunter fisher smith clerk judge guard nurse pilot cook writer actor dancer
    merchant librarian barber butcher
    """
)
ANIMALS = _words("dog cat horse duck goose hen cow goat sheep pig owl crow fox hare mouse bee frog")
COLOURS = _words("red blue green yellow white black grey brown purple orange pink golden silver")
INSTRUMENTS = _words("drum flute fiddle trumpet violin harp organ whistle bell banjo cello guitar")
NUMBERS = _words(
    """
    two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty
    """
)
ABSTRACT = _words(
    """
    reason rule habit story question answer problem idea plan price cost name word number part
    end beginning side place way kind piece life world work time water fire air earth wind
    history science music language law trade art game law truth power change order form light
    sound body hand head eye heart voice face foot mind friend child mother father brother
    sister family people money house door room road wall floor roof ship train
    """
)
FUNCTION = _words(
    """
    the a of and is in to it was that for on with as at by from be this are or an not have had
    but they which one you were all there when we can more if so out about up into them then its
    only some could these two may other than now over such our any most my after also did many
    before must through how much where your well down should because each just those very same
    between both under while last might great since against right three himself few house use
    during without again around another became
    """
)


def plural(noun: str) -> str:
    """Return the plural of a noun of these lists."""
    irregular = {"goose": "geese", "mouse": "mice", "child": "children", "foot": "feet"}
    if noun in irregular:
        return irregular[noun]
    if noun.endswith("fe"):
        return f"{noun[:-2]}ves"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
