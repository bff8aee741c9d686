"""The client without asyncio: the same answers, from a thread of its own."""

import numpy as np
import pytest
from client_cases import PLAIN, SESSION, Fault, Script, serving_apart

from aqaa.client import AnswerText, Client, EndReason, Position, Timing
from aqaa.errors import InvalidRequest, NotFound

QUESTION = np.linspace(-0.5, 0.5, 4000, dtype=np.float32)
SCRIPT = Script()


async def at_once(seconds: float) -> None:
    """A sleep that takes no time."""


QUICK = Timing(sleep=at_once)


def test_it_asks_and_converses_and_takes_up_what_broke():
    drops = [Fault("drop", 8), Fault("none"), Fault("drop", 1), Fault("none"), Fault("drop", 9)]
    with (
        serving_apart(*drops) as (orchestrator, address),
        Client(address, channel=PLAIN, timing=QUICK) as client,
    ):
        answer = client.ask(QUESTION, 16000)
        texts = [event.text for event in answer if isinstance(event, AnswerText)]
        assert "".join(texts) == answer.text == SCRIPT.text
        np.testing.assert_array_equal(answer.pcm(), SCRIPT.pcm)
        assert (answer.resumed, answer.superseded, answer.opened.session_id) == (1, False, SESSION)
        assert answer.position.next_sample == answer.manifest.samples == len(SCRIPT.pcm)

        with client.converse(16000) as conversation:
            turn = conversation.turn(request_id="r1")
            turn.push(QUESTION)
            turn.commit()
            np.testing.assert_array_equal(turn.pcm(), SCRIPT.pcm)
            turn.played(5)
            assert conversation.session_id == SESSION
        assert orchestrator.questions["r1"] == QUESTION.tobytes()

        with client.resume(Position(SESSION, SCRIPT.turn_id())) as again:
            np.testing.assert_array_equal(again.pcm(), SCRIPT.pcm)
        np.testing.assert_array_equal(client.replay(SESSION, SCRIPT.turn_id()).pcm(), SCRIPT.pcm)
        assert client.session(SESSION).session_id == SESSION
        assert client.cancel(SESSION, SCRIPT.turn_id()) is EndReason.CANCELLED
        with pytest.raises(NotFound):
            client.session("other")


def test_a_closed_client_says_so():
    with serving_apart() as (_, address):
        client = Client(address, channel=PLAIN)
        client.ask(QUESTION, 16000).pcm()
        client.close()
        client.close()
        with pytest.raises(InvalidRequest, match="closed"):
            client.session(SESSION)
