"""The colours of code: one for what Python gives a meaning, grey for comments, and none for all else."""

from pygments.style import Style
from pygments.token import Comment, Generic, Keyword, Literal, Name, Operator, Token


def quiet(text: str, accent: str, grey: str) -> dict:
    "A style in which names that are defined stand out by their weight."
    return {Token: text, Comment: f"italic {grey}", Keyword: accent, Operator.Word: accent, Literal: accent, Name.Decorator: accent,
            Name.Function: "bold", Name.Class: "bold", Generic.Prompt: grey, Generic.Output: text}


class Light(Style):
    background_color = "#f6f7f9"
    styles = quiet("#1c2126", "#0b6157", "#5c6670")


class Dark(Style):
    background_color = "#1b1e22"
    styles = quiet("#d3d7db", "#86c9bd", "#929aa3")
