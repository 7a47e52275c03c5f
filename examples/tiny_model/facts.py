"""The small world that the model knows: tables of facts and words, nothing else."""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split(", ")


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in _words(text))


CAPITALS = _pairs(
    "France=Paris, Germany=Berlin, Italy=Rome, Spain=Madrid, Portugal=Lisbon, Austria=Vienna, Switzerland=Bern, "
    "Belgium=Brussels, the Netherlands=Amsterdam, Denmark=Copenhagen, Sweden=Stockholm, Norway=Oslo, "
    "Finland=Helsinki, Iceland=Reykjavik, Ireland=Dublin, the United Kingdom=London, England=London, Poland=Warsaw, "
    "Hungary=Budapest, Greece=Athens, Turkey=Ankara, Russia=Moscow, Ukraine=Kyiv, Romania=Bucharest, Bulgaria=Sofia, "
    "Croatia=Zagreb, Serbia=Belgrade, Egypt=Cairo, Kenya=Nairobi, Morocco=Rabat, Ethiopia=Addis Ababa, Ghana=Accra, "
    "China=Beijing, Japan=Tokyo, India=New Delhi, Thailand=Bangkok, Vietnam=Hanoi, Indonesia=Jakarta, South "
    "Korea=Seoul, Iran=Tehran, Iraq=Baghdad, Israel=Jerusalem, Australia=Canberra, New Zealand=Wellington, "
    "Canada=Ottawa, Mexico=Mexico City, Cuba=Havana, Brazil=Brasilia, Argentina=Buenos Aires, Chile=Santiago, "
    "Peru=Lima, Colombia=Bogota, the United States=Washington"
)
NUMBERS = _words(
    "zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen, "
    "sixteen, seventeen, eighteen, nineteen, twenty"
)
DAYS = _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
MONTHS = _words("January, February, March, April, May, June, July, August, September, October, November, December")
SOUNDS = _pairs(
    "cat=meow, dog=woof, cow=moo, duck=quack, sheep=baa, pig=oink, horse=neigh, lion=roar, bird=tweet, frog=croak, "
    "owl=hoot, bee=buzz, snake=hiss, mouse=squeak, hen=cluck"
)
OPPOSITES = _pairs(
    "hot=cold, big=small, tall=short, fast=slow, happy=sad, old=young, full=empty, light=dark, wet=dry, hard=soft, "
    "loud=quiet, early=late, open=closed, up=down, left=right, day=night, good=bad, clean=dirty, strong=weak, "
    "rich=poor"
)
COLOURED = _pairs(
    "the sky=blue, grass=green, snow=white, a banana=yellow, a tomato=red, coal=black, the sun=yellow, blood=red, a "
    "carrot=orange, milk=white, a leaf=green, the sea=blue, an orange=orange, chocolate=brown, a lemon=yellow, a "
    "strawberry=red, the night=black, an elephant=grey, a frog=green, wood=brown"
)
MEANINGS = _pairs(
    "a cat=a small animal that likes to sleep and to catch mice, a dog=a friendly animal that likes to play, a "
    "bird=an animal with wings that can fly, a fish=an animal that lives in water, a tree=a tall plant made of wood, "
    "a book=a thing with pages that you can read, a house=a building where people live, a car=a machine with four "
    "wheels that drives on roads, a ship=a large boat that sails on the sea, the sun=the star that gives us light and "
    "warmth, the moon=the bright round thing that we see at night, rain=water that falls from the clouds, snow=frozen "
    "water that falls in winter, a river=water that flows to the sea, a mountain=a very high hill, a school=a place "
    "where children learn, a doctor=a person who helps sick people, a teacher=a person who helps others to learn, a "
    "garden=a place where flowers and plants grow, bread=food that is made from flour and water, a computer=a machine "
    "that can work with numbers and words, a clock=a thing that shows the time, a king=a man who rules a country, a "
    "friend=a person whom you like and trust, a star=a very hot ball of light far away in the sky, a bee=a small "
    "insect that makes honey, a language model=a program that writes the next word of a text, music=a pleasant "
    "pattern of sounds, an apple=a round fruit that grows on a tree, a bridge=a way over a river or a road, water=a "
    "clear liquid that we drink, a dream=a story in your head while you sleep"
)
KINDS = {
    "animals": _words("cat, dog, horse, cow, bird, fish, rabbit, mouse, lion, fox, bear, duck, sheep, frog"),
    "colours": _words("red, green, blue, yellow, orange, purple, black, white"),
    "fruits": _words("apple, banana, pear, orange, lemon, cherry, plum, grape"),
    "countries": _words("France, Germany, Italy, Spain, Japan, China, Brazil, Canada, Egypt, India"),
    "things in a kitchen": _words("table, spoon, fork, knife, cup, plate, pot, pan"),
    "shapes": _words("circle, square, triangle, cross, ring"),
}
NAMES = {
    "he": _words("Tom, Ben, Max, Sam, Jack, Leo, Paul, Peter"),
    "she": _words("Anna, Mia, Lily, Sara, Emma, Lucy, Jane, Rose"),
}
PETS = _words("cat, dog, rabbit, bird, fox, mouse, duck, frog")
TRAITS = _words("little, young, old, kind, brave, happy, clever, quiet")
PLACES = _words("garden, forest, park, kitchen, school, market, river, beach")
THINGS = _words("ball, book, key, hat, box, cup, coin, kite, shoe, lamp")
COLOURS = _words("red, green, blue, yellow, orange, purple, black, white")
FOODS = _words("apple, cake, bread, soup, pear, cheese, banana, pie")
WEATHER = _words("sunny, rainy, windy, cold, warm, snowy")
UNKNOWN = _words(
    "quantum physics, the stock market, football, the history of Rome, chemistry, politics, the weather in London, "
    "medicine, the Roman empire, cooking pasta, space travel, black holes, economics, law, car engines, tax forms, "
    "old languages, photography, chess openings, opera, biology, DNA, algebra, philosophy, the news, my neighbour, "
    "tomorrow, the lottery, the price of gold, video games, gardening, electricity, volcanoes, dinosaurs, atoms, "
    "poetry, religion, fashion"
)
