"""The bodies inside a chat request: messages, tools, what is asked of the answer's form."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TextPart(Body):
    type: Literal["text"]
    text: str


class CalledFunction(Body):
    """arguments: a JSON object as text, as the model wrote it."""

    name: FunctionName
    arguments: str = "{}"


class ToolCall(Body):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None

    def as_template_value(self) -> dict[str, Any]:
        """Most templates write the arguments themselves, so they get values, not text."""
        try:
            arguments = json.loads(self.function.arguments or "{}")
        except ValueError:
            arguments = self.function.arguments
        function = {"name": self.function.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


class ChatMessage(Body):
    """One message. An assistant's may come back as it was answered, thoughts and calls included."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _check_role(self) -> Self:
        if self.role != "assistant" and self.content is None:
            raise PydanticCustomError("no_content", "a message needs content")
        if self.role == "assistant" and self.content is None and not self.tool_calls:
            raise PydanticCustomError("no_content", "a message needs content or tool_calls")
        if self.role != "assistant" and self.tool_calls:
            raise PydanticCustomError("not_assistant", "only an assistant has tool_calls")
        if self.role == "tool" and self.tool_call_id is None:
            raise PydanticCustomError("no_call", "a tool's message needs tool_call_id")
        return self

    @property
    def text(self) -> str:
        parts = self.content
        if parts is None:
            return ""
        return parts if isinstance(parts, str) else "".join(part.text for part in parts)

    def as_template_value(self) -> dict[str, Any]:
        role = "system" if self.role == "developer" else self.role
        value: dict[str, Any] = {"role": role, "content": self.text}
        if self.tool_calls:
            value["tool_calls"] = [call.as_template_value() for call in self.tool_calls]
        if self.role == "tool":
            value |= {"tool_call_id": self.tool_call_id, "name": self.name}
        if self.reasoning_content is not None:
            value["reasoning_content"] = self.reasoning_content
        return value


class FunctionBody(Body):
    """parameters: a JSON schema. strict is what required and named choices always are."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: FunctionBody

    def as_template_value(self) -> dict[str, Any]:
        function = self.function
        value: dict[str, Any] = {"name": function.name}
        if function.description is not None:
            value["description"] = function.description
        value["parameters"] = function.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": value}


class ChosenName(Body):
    name: FunctionName


class ChosenTool(Body):
    type: Literal["function"]
    function: ChosenName


class JsonSchema(Body):
    """strict or not, the answer follows the schema."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError("schema", "json_schema goes with the type json_schema")
        if self.json_schema is not None and self.json_schema.schema_ is None:
            raise PydanticCustomError("schema", "json_schema.schema is missing")
        return self
