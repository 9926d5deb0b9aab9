"""The words of synthetic prompts: short and common, so that most tokenizers give each of them one token."""

from __future__ import annotations

_WORDS = """
about above across act add after again against age ago air all allow alone along also always among and animal
answer any appear apple area arm around art ask away back bad ball bank base be beat before begin behind believe
best better between big bird black blood blue board boat body book both bottom box boy bring brother brown build
burn business but buy by call came camp can car care carry case cat catch cause center chair change check child
city class clean clear climb close cloud coast cold color come common company complete contain control cook cool
copy corn correct cost could count country course cover cross crowd cry current cut dance dark day dead deal
decide deep degree design did die differ direct do doctor dog door double down draw dream dress drink drive drop
dry during each ear early earth east easy eat edge effect egg eight either end engine enough enter equal even
evening event ever every exact example eye face fact fall family far farm fast father fear feel few field fight
figure fill final find fine finger finish fire first fish fit five flat floor flow fly follow food foot for force
form forward four free fresh friend from front full game garden gas gave general get girl give glass go gold good
govern grand grass great green ground group grow guess had hair half hand happen happy hard has hat have he head
hear heart heat heavy help her here high hill him his history hit hold hole home horse hot hour house how human
"""

VOCABULARY: tuple[str, ...] = tuple(_WORDS.split())
"""Different from one another. A stream of words draws from them evenly."""
