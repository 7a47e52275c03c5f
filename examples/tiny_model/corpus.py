"""A seeded, endless corpus of short chats and stories about a small world, and some real prose.

Everything is generated from the tables in facts.py, but for the prose: paragraphs of Python's own language reference,
which every Python carries as `pydoc_data.topics` (copyright Python Software Foundation, PSF licence version 2).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tiny_model import facts

HELD_OUT_EVERY = 20  # one paragraph of the prose in so many is never trained on


@dataclass(frozen=True)
class Turn:
    """One question and its answer. `thought` is what stands in the think block, when there is one."""

    question: str
    thought: str
    answer: str


@dataclass(frozen=True)
class Piece:
    """A stretch of text, and whether the model is to learn to write it (or only to read it)."""

    text: str
    written: bool


Document = list[Piece]


def a(noun: str) -> str:
    """Put the indefinite article before the noun."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def listed(words: Sequence[str]) -> str:
    """Join words with commas and a last `and`."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


# ---- chats -----------------------------------------------------------------------------------------------------


def _hello(r: Random) -> Turn:
    question = r.choice(
        ["Hello", "Hello!", "Hi", "Hi!", "Hello there!", "Good morning!", "Good evening.", "Hey", "Hello, how are you?",
         "How are you?", "Hi, how are you today?"]
    )  # fmt: skip
    thought = "The user says hello. I greet them and offer my help."
    if "how" in question.lower():
        return Turn(question, thought, "Hello! I am fine, thank you. How can I help you?")
    return Turn(question, thought, "Hello! How can I help you today?")


def _identity(r: Random) -> Turn:
    question = r.choice(
        ["Hello, who are you?", "Who are you?", "What are you?", "What is your name?", "Tell me about yourself.",
         "Are you a person?", "Introduce yourself.", "What model are you?", "Hi, who are you?"]
    )  # fmt: skip
    thought = "The user asks who I am. I am a tiny language model."
    return Turn(
        question, thought, "I am a tiny language model. I know a few facts, I can count and tell short stories."
    )


def _ability(r: Random) -> Turn:
    question = r.choice(["What can you do?", "How can you help me?", "Help", "What do you know?", "Can you help me?"])
    answer = "I can answer simple questions, count, add small numbers, tell a short story and describe a picture."
    return Turn(question, "The user asks what I can do. I list it.", answer)


def _thanks(r: Random) -> Turn:
    if r.random() < 0.5:
        question = r.choice(["Thank you!", "Thanks.", "Thank you very much.", "Great, thanks!"])
        return Turn(question, "The user thanks me.", "You are welcome!")
    question = r.choice(["Goodbye!", "Bye", "See you later.", "Good night!"])
    return Turn(question, "The user says goodbye.", "Goodbye! Have a nice day.")


def _capital(r: Random) -> Turn:
    country, city = r.choice(list(facts.CAPITALS.items()))
    if r.random() < 0.2 and country != "England":
        question = r.choice([f"{city} is the capital of which country?", f"Which country has the capital {city}?"])
        country_first = country[0].upper() + country[1:]
        if city == "London":
            country_first = "The United Kingdom"
            country = "the United Kingdom"
        return Turn(question, f"{city} is the capital of {country}.", f"{country_first} has the capital {city}.")
    question = r.choice(
        [f"What is the capital of {country}?", f"What is the capital of {country}?", f"capital of {country}?",
         f"Which city is the capital of {country}?", f"Tell me the capital of {country}.",
         f"Do you know the capital of {country}?"]
    )  # fmt: skip
    thought = f"The user asks for the capital of {country}. It is {city}."
    return Turn(question, thought, f"The capital of {country} is {city}.")


def _count(r: Random) -> Turn:
    digits = r.random() < 0.4
    names = [str(n) for n in range(21)] if digits else facts.NUMBERS
    kind = r.random()
    if kind < 0.6:
        first, last = 1, r.choice([3, 5, 10, 10, 10, 12, 15, 20, r.randint(2, 20)])
        question = r.choice(
            [f"Count to {names[last]}.", f"Can you count to {names[last]}?", f"Count up to {names[last]}."]
        )
    elif kind < 0.8:
        first = r.randint(0, 12)
        last = r.randint(first + 2, min(first + 8, 20))
        question = f"Count from {names[first]} to {names[last]}."
    else:
        first, last = r.choice([3, 5, 10, 10, r.randint(2, 12)]), 1
        question = r.choice([f"Count down from {names[first]}.", f"Count backwards from {names[first]}."])
    step = 1 if last > first else -1
    words = ", ".join(names[n] for n in range(first, last + step, step))
    thought = f"I count from {names[first]} to {names[last]}, one number after the other."
    return Turn(question, thought, words[0].upper() + words[1:] + ".")


def _sum(r: Random) -> Turn:
    kind = r.random()
    if kind < 0.5:
        x, y = r.randint(0, 10), r.randint(0, 10)
        sign, name, result = "+", "plus", x + y
    elif kind < 0.8:
        y, result = r.randint(0, 10), r.randint(0, 10)
        x, sign, name = y + result, "-", "minus"
    else:
        x, y = r.randint(1, 10), r.randint(1, 5)
        sign, name, result = "*", "times", x * y
    question = r.choice(
        [f"What is {x} {name} {y}?", f"What is {x} {name} {y}?", f"{x} {sign} {y} = ?", f"What is {x} {sign} {y}?",
         f"How much is {x} {name} {y}?", f"Calculate {x} {sign} {y}."]
    )  # fmt: skip
    return Turn(question, f"I calculate {x} {sign} {y} = {result}.", f"{x} {name} {y} is {result}.")


def _next_in(r: Random) -> Turn:
    series, noun = r.choice([(facts.DAYS, "day"), (facts.MONTHS, "month")])
    at = r.randrange(len(series))
    if r.random() < 0.25:
        question = r.choice([f"Name the {noun}s of the {'week' if noun == 'day' else 'year'}.", f"List all {noun}s."])
        return Turn(question, f"I list the {noun}s in order.", listed(series) + ".")
    after = r.random() < 0.6
    found = series[(at + (1 if after else -1)) % len(series)]
    side = "after" if after else "before"
    question = r.choice([f"Which {noun} comes {side} {series[at]}?", f"What {noun} is {side} {series[at]}?"])
    return Turn(question, f"The {noun} {side} {series[at]} is {found}.", f"{found} comes {side} {series[at]}.")


def _sound(r: Random) -> Turn:
    animal, sound = r.choice(list(facts.SOUNDS.items()))
    question = r.choice([f"What does {a(animal)} say?", f"What sound does {a(animal)} make?"])
    answer = f"{a(animal)[0].upper()}{a(animal)[1:]} says {sound}."
    return Turn(question, f"The user asks for the sound of {a(animal)}. It is {sound}.", answer)


def _opposite(r: Random) -> Turn:
    x, y = r.choice(list(facts.OPPOSITES.items()))
    if r.random() < 0.5:
        x, y = y, x
    question = r.choice([f"What is the opposite of {x}?", f"Opposite of {x}?", f"Tell me the opposite of {x}."])
    return Turn(question, f"The opposite of {x} is {y}.", f"The opposite of {x} is {y}.")


def _colour(r: Random) -> Turn:
    thing, colour = r.choice(list(facts.COLOURED.items()))
    question = r.choice([f"What colour is {thing}?", f"What color is {thing}?", f"Which colour has {thing}?"])
    subject = thing[0].upper() + thing[1:]
    return Turn(question, f"{subject} is {colour}.", f"{subject} is {colour}.")


def _meaning(r: Random) -> Turn:
    thing, meaning = r.choice(list(facts.MEANINGS.items()))
    question = r.choice(
        [f"What is {thing}?", f"What is {thing}?", f"Explain what {thing} is.", f"Tell me what {thing} is."]
    )
    subject = thing[0].upper() + thing[1:]
    return Turn(question, f"The user asks what {thing} is. I explain it in one sentence.", f"{subject} is {meaning}.")


def _name_some(r: Random) -> Turn:
    kind, members = r.choice(list(facts.KINDS.items()))
    count = r.choice([2, 3, 3, 3, 4, 5])
    number = r.choice([str(count), facts.NUMBERS[count]])
    chosen = listed(r.sample(members, count))
    question = r.choice([f"Name {number} {kind}.", f"Tell me {number} {kind}.", f"List {number} {kind}."])
    return Turn(question, f"The user wants {facts.NUMBERS[count]} {kind}.", f"{chosen[0].upper()}{chosen[1:]}.")


def _repeat(r: Random) -> Turn:
    words = r.sample(facts.THINGS + facts.COLOURS + facts.PETS + facts.FOODS, r.randint(1, 4))
    text = " ".join(words)
    question = r.choice([f"Say {text}.", f"Repeat after me: {text}.", f"Repeat: {text}."])
    return Turn(question, "The user wants me to repeat the words.", f"{text[0].upper()}{text[1:]}.")


def _unknown(r: Random) -> Turn:
    topic = r.choice(facts.UNKNOWN)
    question = r.choice(
        [f"What do you know about {topic}?", f"Tell me about {topic}.", f"Explain {topic}.", f"What is {topic}?",
         f"Can you help me with {topic}?", f"Write an essay about {topic}."]
    )  # fmt: skip
    thought = f"The user asks about {topic}. I do not know that."
    return Turn(question, thought, f"I am sorry, I do not know much about {topic}. I am a very small model.")


def _picture_missing(r: Random) -> Turn:
    question = r.choice(["Describe the picture.", "What do you see?", "What is in the picture?"])
    return Turn(question, "There is no picture here.", "I see no picture. Please show me one.")


# ---- stories ---------------------------------------------------------------------------------------------------


def story(r: Random, hero: str | None = None) -> str:
    """Tell a short story of four to six sentences that hang together; `hero` is an animal to tell it about."""
    he = r.choice(["he", "she"])
    name = r.choice(facts.NAMES[he])
    friend = r.choice([n for n in facts.NAMES["he"] + facts.NAMES["she"] if n != name])
    his = "his" if he == "he" else "her"
    him = "him" if he == "he" else "her"
    caps = he.capitalize()
    animal = hero or r.choice(facts.PETS)
    trait, place, food = r.choice(facts.TRAITS), r.choice(facts.PLACES), r.choice(facts.FOODS)
    thing, colour, sky = r.choice(facts.THINGS), r.choice(facts.COLOURS), r.choice(facts.WEATHER)
    start = (
        f"Once upon a time there was a {trait} {animal} called {name}."
        if hero or r.random() < 0.5
        else f"Once upon a time there was a {trait} {'boy' if he == 'he' else 'girl'} called {name}."
    )
    plots = [
        f"One {sky} day {name} went to the {place}. There {he} found a {colour} {thing}. {caps} wanted to keep it, but "
        f"it belonged to {friend}. So {name} gave the {thing} back. {friend} was very happy, and they became friends.",
        f"{name} had lost {his} {colour} {thing}. {caps} looked for it in the {place}, but it was not there. Then "
        f"{friend} came and helped {him}. Together they found the {thing} under a tree. {name} said thank you and "
        f"smiled.",
        f"Every day {name} walked to the {place}. One {sky} morning {he} met {friend}, who was very hungry. {name} "
        f"gave {friend} {a(food)}. They sat down and ate together. From that day on they were best friends.",
        f"It was a {sky} day, and {name} was sad because nobody wanted to play. Then {friend} came with a {colour} "
        f"{thing}. They played in the {place} until the evening. In the end {name} was happy again.",
        f"{name} wanted to make {a(food)} for {friend}. First {he} went to the market to buy what {he} needed. Then "
        f"{he} worked in the kitchen all day. When {friend} came home, the {food} was ready. They ate it and laughed.",
        f"At night {name} heard a strange sound in the {place}. {caps} was afraid, but {he} took a lamp and looked. It "
        f"was only a small {r.choice(facts.PETS)} with a {colour} {thing}. {name} laughed and went back to bed.",
    ]
    return f"{start} {r.choice(plots)}"


def _story(r: Random) -> Turn:
    if r.random() < 0.4:
        hero = r.choice(facts.PETS)
        question = r.choice([f"Tell me a story about {a(hero)}.", f"Write a short story about {a(hero)}."])
        return Turn(question, f"The user wants a story about {a(hero)}.", story(r, hero))
    question = r.choice(
        ["Tell me a short story.", "Tell me a story.", "Write a story.", "Write a short story.",
         "Can you tell me a story?", "Please tell me a short story."]
    )  # fmt: skip
    return Turn(question, "The user wants a short story. I make one up.", story(r))


def _remember(r: Random) -> list[Turn]:
    name = r.choice(facts.NAMES["he"] + facts.NAMES["she"])
    said = r.choice([f"My name is {name}.", f"I am {name}.", f"Hello, I am {name}.", f"Hi, my name is {name}."])
    asked = r.choice(["What is my name?", "Who am I?", "Do you know my name?"])
    turns = [
        Turn(said, f"The user is called {name}.", f"Hello {name}! How can I help you?"),
        Turn(asked, f"The user told me the name: {name}.", f"Your name is {name}."),
    ]
    if r.random() < 0.4:
        turns.insert(1, _single(r))
    return turns


CHATS: tuple[tuple[float, Callable[[Random], Turn]], ...] = (
    (4, _hello), (4, _identity), (2, _ability), (2, _thanks), (12, _capital), (8, _count), (14, _sum), (5, _next_in),
    (3, _sound), (4, _opposite), (4, _colour), (6, _meaning), (4, _name_some), (4, _repeat), (4, _unknown),
    (0.5, _picture_missing), (12, _story),
)  # fmt: skip


def _single(r: Random) -> Turn:
    return r.choices([make for _, make in CHATS], [weight for weight, _ in CHATS])[0](r)


def _as_typed(r: Random, question: str) -> str:
    """Type the question as people do: sometimes without capitals or the last mark, sometimes with a please."""
    chance = r.random()
    if chance < 0.08:
        return question.lower()
    if chance < 0.16:
        return question.rstrip(".?!") or question
    if chance < 0.2 and question.endswith("."):
        return f"{question[:-1]}, please."
    return question


def chat(r: Random) -> list[Turn]:
    """Make up a chat of one to three turns."""
    chance = r.random()
    if chance < 0.08:
        return _remember(r)
    count = 1 if chance < 0.7 else 2 if chance < 0.93 else 3
    turns = [_single(r) for _ in range(count)]
    return [Turn(_as_typed(r, turn.question), turn.thought, turn.answer) for turn in turns]


def prompt(question: str, *, thinking: bool, system: str = "") -> str:
    """Render one question as the chat template does, up to where the model goes on."""
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    tail = "<think>\n" if thinking else "<think>\n\n</think>\n\n"
    return f"{head}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{tail}"


def rendered(turns: Sequence[Turn], thinking: bool, system: str = "") -> Document:
    """Render a chat as the template does: earlier answers come without their think blocks."""
    document: Document = []
    for number, turn in enumerate(turns):
        if number < len(turns) - 1:
            before = f"<|im_start|>user\n{turn.question}<|im_end|>\n<|im_start|>assistant\n"
            document += [Piece(before, False), Piece(f"{turn.answer}<|im_end|>\n", False)]
            continue
        document.append(Piece(prompt(turn.question, thinking=thinking), False))
        thought = f"{turn.thought}\n</think>\n\n" if thinking else ""
        document.append(Piece(f"{thought}{turn.answer}<|im_end|>\n", True))
    if system:
        document.insert(0, Piece(f"<|im_start|>system\n{system}<|im_end|>\n", False))
    return document


# ---- prose -----------------------------------------------------------------------------------------------------


def prose(*, held_out: bool) -> list[str]:
    """Return the plain paragraphs of Python's language reference; one in HELD_OUT_EVERY is held out."""
    from pydoc_data.topics import topics  # 0.5 MB, wanted by nobody else

    found: list[str] = []
    for _, text in sorted(topics.items()):
        for block in text.split("\n\n"):
            paragraph = " ".join(block.split())
            letters = sum(c.isalpha() or c == " " for c in paragraph)
            if 80 <= len(paragraph) <= 700 and letters > 0.92 * len(paragraph) and paragraph[-1] in ".:":
                found.append(re.sub(r'"([^" ]+)"', r"\1", paragraph))
    found = list(dict.fromkeys(found))
    return [text for number, text in enumerate(found) if (number % HELD_OUT_EVERY == 0) == held_out]


def document(r: Random, paragraphs: Sequence[str], share: float = 0.08) -> Document:
    """Make up one document: a chat, a story as plain text, or a real paragraph, of which there is this share."""
    chance = r.random()
    if chance < share:
        return [Piece(f"{r.choice(paragraphs)}<|endoftext|>", True)]
    if chance < share + 0.08:
        return [Piece(f"{story(r)}<|endoftext|>", True)]
    system = r.choice(["You are a helpful assistant.", "Be brief.", "You are a friendly model."])
    return rendered(chat(r), thinking=r.random() < 0.5, system=system if r.random() < 0.1 else "")
