"""Questions for what the assistant can do, in five languages."""

import re

_GREETING = (
    r"(?:(?:hi|hello|hey|hallo|guten tag|bonjour|salut|hola|buenos d[íi]as|你好|您好|嗨)"
    r"(?: there| palaver)?[\s,.!，。！]*)?"
    r"(?:(?:and|so|und|et|y|please|bitte|请问|那)[\s,，]+)?"
)
_FOR_ME = r"(?: for me| für mich| pour moi| por m[íi])?"
_ASKED = (
    rf"what (?:all )?(?:can|could|do) you do{_FOR_ME}(?: here)?",
    r"what (?:things )?are you (?:able|capable) (?:to|of)(?: do(?:ing)?| help(?:ing)? me with)?",
    r"(?:how|what) (?:can|could) you (?:help|assist)(?: me)?(?: with)?",
    r"what are your (?:skills|abilities|capabilities|features|functions)",
    r"what (?:do you know how to do|are you (?:good|useful) (?:at|for)|are you for)",
    r"(?:tell|show) me what you can do",
    r"what can i (?:do|ask|use)(?: you| here)?(?: with you| about| for)?",
    r"how do you work|how does this work|help",
    rf"was (?:kannst du|können sie)(?: so)?(?: alles)?{_FOR_ME}(?: tun| machen)?",
    r"(?:wobei|womit|wie) (?:kannst du|können sie)(?: mir| uns)? (?:helfen|behilflich sein)",
    r"welche (?:fähigkeiten|funktionen) (?:hast du|haben sie|gibt es)",
    r"wofür bist du (?:da|gut)|hilfe",
    rf"(?:qu['’]est-ce que|que) (?:tu (?:sais|peux)|vous (?:savez|pouvez)) faire{_FOR_ME}",
    rf"que (?:sais-tu|peux-tu|savez-vous|pouvez-vous) faire{_FOR_ME}|tu (?:sais|peux) faire quoi",
    r"(?:en quoi|comment) (?:peux-tu|pouvez-vous|tu peux|vous pouvez) m['’]aider",
    r"quelles sont (?:tes|vos) (?:capacités|compétences|fonctions)",
    r"à quoi (?:tu sers|sers-tu|servez-vous)|aide",
    rf"qu[ée] (?:puedes|sabes|puede|sabe)(?: usted)? hacer{_FOR_ME}",
    r"(?:en qu[ée]|con qu[ée]|c[óo]mo) (?:me )?(?:puedes|puede) ayudar(?:me)?",
    r"cu[áa]les son (?:tus|sus) (?:habilidades|funciones|capacidades)|para qu[ée] sirves|ayuda",
    r"你都?(?:会|能|可以)(?:帮我)?(?:做|干)?(?:些|点)?(?:什么|啥|哪些)(?:事情?|忙)?",
    r"你有(?:什么|哪些)(?:功能|本领|能力|技能)|能帮我做什么|你的功能是什么|帮助",
)
PATTERN = rf"[¿\s]*{_GREETING}¿?(?:{'|'.join(_ASKED)})[\s?？!.。]*"
"""A message that asks for nothing else."""
_PATTERN = re.compile(PATTERN, re.IGNORECASE)
_LONGEST = 120


def asks_for_help(text: str) -> bool:
    """Return True for a message that only asks what the assistant can do."""
    return len(text) <= _LONGEST and _PATTERN.fullmatch(text.strip()) is not None
