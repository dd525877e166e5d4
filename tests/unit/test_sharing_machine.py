"""A sharer under any order of inputs: one key, three PINs, nothing signed that nobody compared."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from share_world import EXPIRES_S, NOW_S, PIN, Share
from statement_world import public

from dkey.crypto.seal import Seal
from dkey.crypto.secret import Secret
from dkey.errors import PolicyRefusal
from dkey.lifecycle.policy import CODE_MAX_TRIES
from dkey.lifecycle.share_messages import fingerprint
from dkey.lifecycle.share_states import SHARER_TRANSITIONS, ShareState
from dkey.lifecycle.sharing import SharerExchange

KEYS = st.sampled_from(["friend", "stranger"])
OVER = (ShareState.DECLINED, ShareState.EXPIRED, ShareState.LOCKED, ShareState.IMPORTED)


class Sharing(RuleBasedStateMachine):
    """The exchange beside a plain model: who was first, what was compared, how many guesses."""

    def __init__(self) -> None:
        super().__init__()
        self.share = Share(needs_pin=True)
        self.seal = Seal(Secret(bytes(32)), self.share.entropy)
        self.now_s = NOW_S
        self.first: str | None = None
        self.guesses = 0
        self.compared = False
        self.ended: ShareState | None = None
        self.edges = {(s, after) for (s, _), many in SHARER_TRANSITIONS.items() for after in many}

    def step(self, act) -> bool:
        """Do something; return whether it was allowed. A refusal changes nothing."""
        before = self.share.sharer
        try:
            act()
        except PolicyRefusal:
            assert self.share.sharer is before
            return False
        after = self.share.sharer.state
        assert after is before.state or (before.state, after) in self.edges
        return True

    @property
    def late(self) -> bool:
        return self.now_s > EXPIRES_S

    def sealed(self, key: str, pin: Secret) -> bytes:
        end = self.share.opened()
        return end.request(
            vault=self.share.friend_vault,
            key=key,
            account=end.invitation.account,
            pin=pin,
            now_s=NOW_S,
            entropy=self.share.entropy,
        )[1]

    @rule(key=KEYS)
    def right_pin(self, key) -> None:
        took = self.step(lambda: self.share.take(self.sealed(key, PIN), self.now_s))
        if took and self.first is None:
            assert not self.late
            self.first = key
        assert not took or key == self.first

    @rule(key=KEYS)
    def wrong_pin(self, key) -> None:
        state = self.share.sharer.tick(self.now_s).state
        wrong = Secret(b"000000")
        self.step(lambda: self.share.take(self.sealed(key, wrong), self.now_s))
        self.guesses += state is ShareState.INVITED

    @rule(key=KEYS)
    def compare(self, key) -> None:
        sharer = self.share.sharer
        seen = fingerprint(sharer.secret, sharer.invitation, public(key))
        if self.step(lambda: self.share.confirm(seen, self.now_s)):
            assert key == self.first
            assert not self.late
            self.compared = True

    @rule()
    def sign(self) -> None:
        if self.step(lambda: self.share.sign(self.now_s)):
            assert self.compared
            assert not self.late

    @rule(chance=st.integers(0, 9))
    def decline(self, chance) -> None:
        def act() -> None:
            self.share.sharer = self.share.sharer.decline()

        if chance == 0:
            self.step(act)

    @rule(chance=st.integers(0, 9), ticks=st.booleans())
    def wait(self, chance, ticks) -> None:
        self.now_s += 1 if chance else EXPIRES_S - NOW_S

        def act() -> None:
            self.share.sharer = self.share.sharer.tick(self.now_s)

        if ticks:
            self.step(act)

    @rule()
    def restart(self) -> None:
        again = SharerExchange.from_value(self.share.sharer.to_value(self.seal), self.seal)
        assert again == self.share.sharer
        self.share.sharer = again

    @precondition(lambda self: self.share.sharer.answer is not None and self.first == "friend")
    @rule()
    def receipt(self) -> None:
        share = self.share
        end = share.opened().request(
            vault=share.friend_vault,
            key="friend",
            account=share.sharer.invitation.account,
            pin=PIN,
            now_s=NOW_S,
            entropy=share.entropy,
        )[0]
        share.friend = end
        _, sealed = share.receive(share.sharer.answer)

        def act() -> None:
            share.sharer = share.sharer.receive_receipt(sealed)

        assert self.step(act)

    @invariant()
    def one_key_and_three_guesses(self) -> None:
        sharer = self.share.sharer
        assert sharer.friend == (None if self.first is None else public(self.first))
        assert self.guesses == sharer.tries <= CODE_MAX_TRIES
        assert (sharer.state is ShareState.LOCKED) is (sharer.tries == CODE_MAX_TRIES)
        assert sharer.answer is None or self.compared

    @invariant()
    def what_is_over_stays_over(self) -> None:
        state = self.share.sharer.state
        assert self.ended in (None, state)
        if state in OVER:
            self.ended = state


Sharing.TestCase.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)
test_a_sharer_keeps_its_rules_under_any_order = Sharing.TestCase
