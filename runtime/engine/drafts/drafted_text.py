"""What is known of one answer for its drafts: what came before, and how often drafts of it are right."""

from __future__ import annotations

from collections.abc import Sequence

from qwen35_gguf.runtime.engine.drafts.acceptance import Rates
from qwen35_gguf.runtime.engine.drafts.draft_plan import Chances
from qwen35_gguf.runtime.engine.drafts.draft_rows import Coverage
from qwen35_gguf.runtime.engine.drafts.ngrams import Item, Match, NgramDrafter
from qwen35_gguf.runtime.engine.drafts.row_costs import RowsRead
from qwen35_gguf.runtime.engine.drafts.token_index import TokenIndex

LOOK_BACK = 256  # tokens of the prompt that tell which rows its answer needs


class DraftedText:
    """The drafts of one answer.

    Attributes:
        rates: how often they are right.
        match: what n-grams draft for the next step.
        guess: what the MTP head drafts for it.
        covered: how many tokens are among the first rows of the output matrix.

    """

    def __init__(
        self, items: Sequence[Item], answers: TokenIndex | None, rates: Rates, rows: RowsRead | None = None
    ) -> None:
        """Begin.

        Args:
            items: of the prompt.
            answers: earlier ones; None: n-grams draft nothing.
            rates: of earlier texts.
            rows: that the head's drafts read, as they change; None: all.

        """
        self.rates = rates
        self.match: Match | None = None
        self.guess: list[int] = []
        self._rows = rows or RowsRead()
        self.covered = Coverage(self._rows.choices)
        self.covered.add(item for item in items[-LOOK_BACK:] if isinstance(item, int))
        self._seen = len(items)
        self._ngrams = NgramDrafter(items, answers) if answers is not None else None

    def look_up(self, items: Sequence[Item], known: Sequence[int], count: int) -> None:
        """Let n-grams draft up to `count` tokens after the items of the sequence and what is known to follow them."""
        self.match, self.guess = None, []
        new = [item for item in items[self._seen :] if isinstance(item, int)]
        new += known[max(0, self._seen - len(items)) :]
        self._seen = len(items) + len(known)
        self.covered.add(new)
        if self._ngrams is None:
            return
        self._ngrams.extend(new)
        if count > 0:
            self.match = self._ngrams.draft(count, self.rates)

    def chances(self, head_depth: int) -> Chances:
        """Return how often drafts are expected to be right; the head may draft up to `head_depth`."""
        rates = self.rates
        return Chances(self.ngram_rates(), self.head_rates()[:head_depth], rates.agree.value, rates.agreed.value)

    def head_rates(self) -> list[float]:
        """Return how often the places of the head's drafts are expected to be right."""
        share = self.covered.of(self._rows.count)
        return [rate * share for rate in self.rates.of_head()]

    def ngram_rates(self) -> list[float]:
        """Return how often the places of the n-grams' draft are expected to be right."""
        match = self.match
        return [] if match is None else self.rates.of_match(match.source, match.length, len(match.tokens))

    def learn(self, truth: Sequence[int]) -> None:
        """Compare with the tokens that came, in drafts that were verified and in others."""
        match, guess, rates = self.match, self.guess, self.rates
        if not truth:
            return
        if match is not None:
            rates.add_match(match.source, match.length, match.tokens, truth)
        if guess:
            rates.add_head(guess, truth, self._rows.count)
        if match is not None and guess:
            same = match.tokens[0] == guess[0]
            rates.agree.add(same)
            if same:
                rates.agreed.add(guess[0] == truth[0])
