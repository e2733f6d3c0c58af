"""Scripts that let a shell complete the command `emo-ray`: jobs, recipes, keys, and the values of closed sets."""

from emo_ray import config as configuration
from emo_ray.commands import COMMANDS, CONSOLE

SHELLS = ("bash", "zsh")
_ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"
# Bash splits words at "=" as well: behind one, the word before it is the key.
_SCRIPT = """\
_emo_ray() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} key=
    [ "$word" = = ] && key=${{COMP_WORDS[COMP_CWORD-1]}} word=
    [ "${{COMP_WORDS[COMP_CWORD-1]}}" = = ] && key=${{COMP_WORDS[COMP_CWORD-2]}}
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "{jobs} completion --help --version" -- "$word"))
    elif [ "${{COMP_WORDS[1]}}" = completion ]; then
        COMPREPLY=($(compgen -W "{shells}" -- "$word"))
    elif [ -n "$key" ]; then
        case $key in
{cases}
        *) COMPREPLY=($(compgen -f -- "$word")) ;;
        esac
    elif [[ " ${{COMP_WORDS[*]}} " = *" --help "* ]]; then
        COMPREPLY=($(compgen -W "{sections} {bare_keys}" -- "$word"))
    else
        COMPREPLY=($(compgen -W "{recipes} {keys} --help --json --version" -- "$word"))
        COMPREPLY+=($(compgen -f -X '!*.yaml' -- "$word"))
        [[ "${{COMPREPLY[*]}}" = *= ]] && compopt -o nospace 2>/dev/null
    fi
}}
complete -o filenames -F _emo_ray {console}
"""


def script(shell: str) -> str:
    """The script for a shell, to be evaluated there.

    Raises ValueError for a shell that is not in `SHELLS`.
    """
    if shell not in SHELLS:
        raise ValueError(f"completion: found {shell!r}, expected one of {', '.join(SHELLS)}")
    keys = configuration.leaves()
    text = _SCRIPT.format(
        console=CONSOLE,
        jobs=" ".join(COMMANDS),
        shells=" ".join(SHELLS),
        cases="\n".join(_cases(keys)),
        sections=" ".join(name for name in configuration.sections() if name),
        bare_keys=" ".join(keys),
        recipes=" ".join(configuration.recipe_names()),
        keys=" ".join(f"{key}=" for key in keys),
    )
    return _ZSH + text if shell == "zsh" else text


def _cases(keys: list[str]) -> list[str]:
    """A line of the script for each key with a closed set of values."""
    lines = []
    for key in keys:
        values = ("true", "false") if configuration.field_of(key).annotation is bool else configuration.choices(key)
        words = [value for value in values if isinstance(value, str)]
        if words:
            lines.append(f'        {key}) COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$word")) ;;')
    return lines
