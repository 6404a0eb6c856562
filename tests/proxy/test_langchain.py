"""LangChain against the gateway, on the real llama-server."""

import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

pytestmark = pytest.mark.once


@pytest.fixture
def chat_model(live, bob):
    return ChatOpenAI(
        base_url=f"{live.url}/v1", api_key=bob.token, model="smollm2-135m", temperature=0, max_tokens=8, max_retries=0
    )


def test_it_answers_and_streams_the_same(chat_model):
    answer = chat_model.invoke("Say hello.")
    assert answer.content
    assert answer.usage_metadata["output_tokens"] == 8
    assert "".join(chunk.content for chunk in chat_model.stream("Say hello.")) == answer.content


def test_it_answers_several_at_once(chat_model):
    assert all(answer.content for answer in chat_model.batch(["Say hello.", "Say goodbye."]))


def test_it_gives_structured_output(live, bob):
    schema = {"title": "Person", "type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    model = ChatOpenAI(base_url=f"{live.url}/v1", api_key=bob.token, model="smollm2-135m", temperature=0)
    answer = model.with_structured_output(schema, method="json_schema").invoke("Ava is 25 years old.")
    assert isinstance(answer["age"], int)


def test_it_embeds(live, bob, served_by, embedder):
    served_by(embedder)
    embeddings = OpenAIEmbeddings(
        base_url=f"{live.url}/v1", api_key=bob.token, model="smollm2-135m", check_embedding_ctx_length=False
    )
    assert len(embeddings.embed_query("Hello")) == 576
