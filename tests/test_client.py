"""Websim through g4f's own clients, sync and async, named by its class or by a string."""

import pytest
from g4f.client import AsyncClient

from g4f_websim import Websim
from g4f_websim.emulator import Emulator

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("provider", [Websim, "Websim"])
async def test_an_async_client_answers(websim: Emulator, provider):
    answer = await AsyncClient(provider=provider).chat.completions.create(HELLO)
    assert "You said: Hello" in answer.choices[0].message.content
